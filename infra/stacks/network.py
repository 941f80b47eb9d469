"""The network: who reaches whom, and the ways out to providers and AWS.

dev has public subnets only. Its tasks have public addresses and nothing may come in: a way out to the providers'
internet without a NAT gateway, which costs more than all of dev's tasks. prod's tasks are in private subnets behind
NAT, so that no mistake in a security group puts one on the internet, and so that providers see one address.

S3 has a gateway endpoint in both, which is free: data and the layers of images do not pass NAT. Interface endpoints
cost 7.30 USD a month and zone each, and what would pass them is small: ``-c interface_endpoints=true`` adds them to
prod for whoever must keep AWS's own traffic off the internet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from stacks.nag import accept, skip
from stacks.stage import Stage

_ENDPOINTS = {
    "EcrApi": ec2.InterfaceVpcEndpointAwsService.ECR,
    "EcrDocker": ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
    "Logs": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
    "Secrets": ec2.InterfaceVpcEndpointAwsService.SECRETS_MANAGER,
    "Glue": ec2.InterfaceVpcEndpointAwsService.GLUE,
    "Athena": ec2.InterfaceVpcEndpointAwsService.ATHENA,
    "Kinesis": ec2.InterfaceVpcEndpointAwsService.KINESIS_STREAMS,
}
# Of whom a group takes connections, and on which port. What is not here takes none.
_WAYS_IN: Mapping[str, tuple[str, int, Sequence[str]]] = {
    "door": ("the load balancer, which asks who it is", 443, ()),
    "webserver": ("the UI of Dagster", 3000, ("door",)),
    "worker": ("the daemon, and the runs that it starts", 0, ()),
    "stream": ("collector and consumer", 0, ()),
    "code": ("the code location", 4000, ("webserver", "worker")),
    "state": ("budgets and leases, on EFS", 2049, ("code", "worker", "stream")),
    "endpoints": ("services of AWS", 443, ("webserver", "worker", "stream", "code")),
    "database": ("the Postgres of Dagster", 5432, ("webserver", "worker", "code")),
}


class Network(Construct):
    """Attributes:
    vpc: two zones.
    groups: security groups by who is in them.
    tasks: the subnets that tasks run in.
    is_public: whether tasks have public addresses.
    """

    def __init__(
        self,
        scope: Construct,
        stage: Stage,
        key: kms.IKey,
        *,
        is_private: bool,
        has_interface_endpoints: bool,
        ui_cidrs: Sequence[str],
    ) -> None:
        super().__init__(scope, "Network")
        self._stage = stage
        self.is_public = not is_private
        self.vpc = self._vpc()
        self.tasks = ec2.SubnetSelection(
            subnet_type=ec2.SubnetType.PUBLIC if self.is_public else ec2.SubnetType.PRIVATE_WITH_EGRESS
        )
        left_out = {
            name for name, is_needed in (("door", ui_cidrs), ("endpoints", has_interface_endpoints)) if not is_needed
        }
        self.groups = self._groups(ui_cidrs, left_out)
        if is_private:
            self._log_flows(key)
            if has_interface_endpoints:
                for name, service in _ENDPOINTS.items():
                    self.vpc.add_interface_endpoint(
                        name,
                        service=service,
                        subnets=self.tasks,
                        security_groups=[self.groups["endpoints"]],
                        # The group says who.
                        open=False,
                    )

    def _vpc(self) -> ec2.Vpc:
        public = ec2.SubnetConfiguration(
            name="public",
            subnet_type=ec2.SubnetType.PUBLIC,
            cidr_mask=22,
            # A task says itself that it takes an address; nothing gets one unasked.
            map_public_ip_on_launch=False,
        )
        private = ec2.SubnetConfiguration(name="private", subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS, cidr_mask=20)
        vpc = ec2.Vpc(
            self,
            "Vpc",
            vpc_name=self._stage.named("vpc"),
            ip_addresses=ec2.IpAddresses.cidr("10.40.0.0/16"),
            # The region's first two, whatever they are: a template is made without asking AWS.
            availability_zones=[cdk.Fn.select(i, cdk.Fn.get_azs()) for i in (0, 1)],
            # One for both zones: providers that cannot be reached while a zone is down are asked again later.
            nat_gateways=0 if self.is_public else 1,
            subnet_configuration=[public] if self.is_public else [public, private],
            gateway_endpoints={"S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3)},
        )
        if self.is_public:
            accept(
                vpc,
                "Flow logs cost more than what they would watch here: dev takes no connections.",
                "AwsSolutions-VPC7",
            )
        return vpc

    def _groups(self, ui_cidrs: Sequence[str], left_out: Collection[str]) -> dict[str, ec2.ISecurityGroup]:
        """All ways in are inline in the group that they lead into: none is added from anywhere else."""
        made: dict[str, ec2.CfnSecurityGroup] = {}
        for name, (what, port, sources) in _WAYS_IN.items():
            if name in left_out:
                continue
            ingress = [
                ec2.CfnSecurityGroup.IngressProperty(
                    ip_protocol="tcp",
                    from_port=port,
                    to_port=port,
                    source_security_group_id=made[source].attr_group_id,
                    description=f"from {source}",
                )
                for source in sources
                if source in made
            ]
            if name == "door":
                ingress = [
                    ec2.CfnSecurityGroup.IngressProperty(
                        ip_protocol="tcp", from_port=port, to_port=port, cidr_ip=cidr, description="people"
                    )
                    for cidr in ui_cidrs
                ]
            made[name] = ec2.CfnSecurityGroup(
                self,
                name.title(),
                group_name=self._stage.named(name),
                group_description=what,
                vpc_id=self.vpc.vpc_id,
                security_group_ingress=ingress,
                # Providers are anywhere, and AWS's own endpoints have no fixed addresses.
                security_group_egress=[
                    ec2.CfnSecurityGroup.EgressProperty(ip_protocol="-1", cidr_ip="0.0.0.0/0", description="out")
                ],
            )
            skip(made[name], "Providers are anywhere; what comes in is what is guarded.", "CKV_AWS_382")
        return {
            name: ec2.SecurityGroup.from_security_group_id(
                self, f"{name.title()}Group", group.attr_group_id, mutable=False
            )
            for name, group in made.items()
        }

    def _log_flows(self, key: kms.IKey) -> None:
        group = logs.LogGroup(
            self,
            "Flows",
            log_group_name=f"/{self._stage.named('flows')}",
            encryption_key=key,
            # Who spoke with whom is asked within weeks, or never.
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        self.vpc.add_flow_log(
            "Rejected",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(group),
            # What was let through is known by the groups; what was not is news.
            traffic_type=ec2.FlowLogTrafficType.REJECT,
        )
