"""What runs: Dagster's webserver, daemon and code location on Fargate, its runs, the stream's services, Postgres.

Every container runs the same image (``Dockerfile``) as nobody, with a file system that cannot be written. Each
component has its own role (``access.py``), which gets here what it needs of ECS, EFS and its own task.

Belongs here: tasks, services, database, the state's file system, the load balancer. Where they are is ``network.py``,
what is watched of them ``alarms.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_efs as efs
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_servicediscovery as servicediscovery
from constructs import Construct

from stacks.access import Access
from stacks.alarms import Alarms
from stacks.image import Image
from stacks.nag import accept, skip
from stacks.network import Network
from stacks.stage import Stage
from stacks.storage import Storage
from stacks.stream import Stream
from stacks.watch import Watch

PROJECT_FILE = Path(__file__).parents[2] / "pyproject.toml"
# Needs no key, and answers from anywhere: Binance's refuses addresses in the US.
_FEEDS = "coinbase_stream"
# The image's user; the state's files are its own.
_NOBODY = "10001"
_OIDC = (
    "oidc_issuer",
    "oidc_authorization_endpoint",
    "oidc_token_endpoint",
    "oidc_user_info_endpoint",
    "oidc_client_id",
    "oidc_secret_arn",
)
# What the agent of ECS Exec writes to, where the file system is read only.
_AGENT = ("managed-agents", "var/lib/amazon/ssm", "var/log/amazon/ssm")
_WITH_DATABASE = ("webserver", "daemon", "code", "run")
_WITH_STATE = ("code", "run", "stream-collect")


@dataclass(frozen=True)
class Size:
    """What a task may use; AWS has CPU and memory in steps that go together."""

    cpu: int
    memory_mib: int


# Measured resident memory: webserver 174 MB, daemon 159 MB, code location 270 MB; half a vCPU is what health checks
# and a tick each half minute are quick with.
_SIZES = {
    "webserver": Size(512, 1024),
    "daemon": Size(512, 1024),
    "code": Size(512, 2048),
    # A day's refresh of all providers stays below 2 GB; tags ecs/cpu and ecs/memory ask for more for one run.
    "run": Size(1024, 4096),
    "stream-collect": Size(256, 512),
    "stream-consume": Size(512, 1024),
}
_COMMANDS = {
    # First, as the others name it. What a run does is said when it is launched.
    "run": ("dagster", "--version"),
    "webserver": ("dagster-webserver", "-h", "0.0.0.0", "-p", "3000", "-w", "/opt/dagster/workspace.yaml"),  # noqa: S104
    "daemon": ("dagster-daemon", "run", "-w", "/opt/dagster/workspace.yaml"),
    "code": (
        *("dagster", "api", "grpc", "-h", "0.0.0.0", "-p", "4000"),  # noqa: S104 - its group lets two others in
        *("-m", "crypto_assets.definitions", "-a", "defs"),
    ),
}
_PORTS = {"webserver": (3000,), "code": (4000,)}
# Where the password is no longer the database's, code and UI are as useless as the daemon: all three are replaced, and
# the new tasks are told the new one. (The daemon's own check writes and reads its heartbeats there.)
_DATABASE = (
    'python -c "from os import environ as e; from psycopg2 import connect; '
    "connect(host=e['DAGSTER_POSTGRES_HOST'], user=e['DAGSTER_POSTGRES_USER'], dbname=e['DAGSTER_POSTGRES_DB'], "
    "password=e['DAGSTER_POSTGRES_PASSWORD'], connect_timeout=9)\""
)
_UI = "python -c \"from urllib.request import urlopen; urlopen('http://127.0.0.1:3000/server_info', timeout=9)\""
_HEALTH = {
    "webserver": f"{_UI} && {_DATABASE}",
    "daemon": "dagster-daemon liveness-check",
    "code": f"dagster api grpc-health-check -p 4000 && {_DATABASE}",
}


@dataclass(frozen=True)
class Door:
    """How people reach the UI through the load balancer: never without being asked who they are.

    Attributes:
        cidrs: from where.
        oidc: the identity provider's addresses and our client there, by the names in ``_OIDC``.
    """

    certificate_arn: str
    cidrs: tuple[str, ...]
    oidc: Mapping[str, str]

    @classmethod
    def of(cls, scope: Construct) -> Door | None:
        """What ``-c`` says; None where it says nothing: then there is no load balancer at all.

        Raises:
            ValueError: some of it is missing. A door without a lock is not made.
        """
        names = ("certificate_arn", "ui_cidrs", *_OIDC)
        told = {name: str(scope.node.try_get_context(name) or "") for name in names}
        if not any(told.values()):
            return None
        if missing := [name for name, value in told.items() if not value]:
            raise ValueError(
                f"the UI is reached through HTTPS and an identity provider only: -c {missing[0]}=... is missing"
            )
        return cls(
            certificate_arn=told["certificate_arn"],
            cidrs=tuple(part.strip() for part in told["ui_cidrs"].split(",")),
            oidc={name: told[name] for name in _OIDC},
        )


class Compute(cdk.Stack):
    """Context: ``image_tag`` (the package's version), ``feeds``, ``interface_endpoints``, and a door's."""

    def __init__(
        self,
        scope: Construct,
        stage: Stage,
        *,
        storage: Storage,
        stream: Stream,
        access: Access,
        watch: Watch,
        image: Image,
    ) -> None:
        super().__init__(
            scope,
            stage.named("compute"),
            env=stage.env,
            description="crypto-assets: what runs, and its alarms",
            termination_protection=stage.keeps_data,
        )
        self._stage, self._storage, self._access = stage, storage, access
        told = self.node.try_get_context("feeds")
        self._feeds = [part.strip() for part in (_FEEDS if told is None else told).split(",") if part.strip()]
        # By its name only: what is granted is written into our roles, and never back into the key's own policy.
        self._key = kms.Key.from_key_arn(self, "Key", storage.key.key_arn)
        self._image = self._image_of(image.repository)
        self._provider_keys = {
            name: ecs.Secret.from_secrets_manager(
                secretsmanager.Secret.from_secret_attributes(
                    self, _word(name), secret_complete_arn=secret.secret_arn, encryption_key=self._key
                )
            )
            for name, secret in storage.secrets.items()
        }
        door = Door.of(self)
        self.network = Network(
            self,
            stage,
            self._key,
            is_private=stage.keeps_data,
            has_interface_endpoints=str(self.node.try_get_context("interface_endpoints")).lower() == "true",
            ui_cidrs=door.cidrs if door else (),
        )
        self.database = self._database()
        self._state = self._state_files()
        self.cluster = self._cluster()
        self.log_groups = {name: self._log_group(name) for name in _SIZES}
        self.tasks: dict[str, ecs.FargateTaskDefinition] = {}
        for name in _COMMANDS:
            self.tasks[name] = self._task(name)
        self._allow_state()
        self._allow_runs()
        self.services = {name: self._service(name) for name in ("code", "webserver", "daemon")}
        # They find the code by its name, and say so loudly where it is not there yet.
        for name in ("webserver", "daemon"):
            self.services[name].node.add_dependency(self.services["code"])
        if self._feeds:
            self._streams(self._feeds)
        balancer = self._balancer(door) if door else None
        Alarms(
            self,
            stage,
            topic=watch.alarms,
            services=self.services,
            log_groups=self.log_groups,
            database=self.database,
            stream=stream.trades if self._feeds else None,
            balancer=balancer,
        )
        self._say_how_to_get_in()

    # ---- image and settings ----

    def _image_of(self, repository: ecr.IRepository) -> ecs.ContainerImage:
        tag = self.node.try_get_context("image_tag")
        if not tag:
            found = re.search(r'^version = "(.+)"$', PROJECT_FILE.read_text(encoding="utf-8"), re.MULTILINE)
            tag = found[1] if found else "latest"
        return ecs.ContainerImage.from_ecr_repository(repository, tag)

    def _environment(self, component: str) -> dict[str, str]:
        stage = self._stage
        found = {
            "AWS_REGION": stage.region,
            "CRYPTO_ASSETS_LAKE_URI": stage.lake_uri,
            "CRYPTO_ASSETS_CATALOG": "glue",
            "CRYPTO_ASSETS_CATALOG_PREFIX": stage.catalog_prefix,
            "CRYPTO_ASSETS_ATHENA_WORKGROUP": stage.workgroup,
        }
        if component in _WITH_DATABASE:
            found |= {
                "DAGSTER_HOME": "/opt/dagster/ecs",
                "DAGSTER_LOGS_BUCKET": stage.bucket("work"),
                "DAGSTER_POSTGRES_HOST": self.database.db_instance_endpoint_address,
                "DAGSTER_POSTGRES_USER": "dagster",
                "DAGSTER_POSTGRES_DB": "dagster",
                "PGSSLMODE": "require",
            }
        if component in {"webserver", "daemon"}:
            found["CODE_LOCATION_HOST"] = f"code.{self._namespace_name}"
            # By its revision: whoever launches runs is started anew when that changes, and the old one is gone.
            found["DAGSTER_RUN_TASK_DEFINITION"] = self.tasks["run"].task_definition_arn
        if component.startswith("stream-"):
            found["CRYPTO_ASSETS_FEEDS"] = ",".join(self._feeds)
        if component == "code":
            # The tag of the maintenance job by which ECS gives its run another role than other runs have.
            found["CRYPTO_ASSETS_MAINTENANCE_ROLE"] = stage.role_arn("maintenance")
        return found

    def _secrets(self, component: str) -> dict[str, ecs.Secret]:
        found: dict[str, ecs.Secret] = {}
        if component in _WITH_DATABASE:
            found["DAGSTER_POSTGRES_PASSWORD"] = ecs.Secret.from_secrets_manager(self._password, "password")
        # code must know which providers there are; a run asks them.
        if component in {"code", "run", "stream-collect"}:
            found |= self._provider_keys
        return found

    # ---- what is kept ----

    def _database(self) -> rds.DatabaseInstance:
        """Runs, events and schedules: to lose it is to lose history, never data."""
        stage, keeps = self._stage, self._stage.keeps_data
        database = rds.DatabaseInstance(
            self,
            "Database",
            instance_identifier=stage.named("dagster"),
            engine=rds.DatabaseInstanceEngine.postgres(version=rds.PostgresEngineVersion.VER_17_9),
            instance_type=ec2.InstanceType.of(
                ec2.InstanceClass.T4G, ec2.InstanceSize.SMALL if keeps else ec2.InstanceSize.MICRO
            ),
            vpc=self.network.vpc,
            # Where there are public subnets only, it is in them without an address: the internet does not reach it.
            vpc_subnets=self.network.tasks,
            security_groups=[self.network.groups["database"]],
            publicly_accessible=False,
            multi_az=keeps,
            database_name="dagster",
            # prod's is RDS's own, which changes it every week; dev's is made once.
            credentials=rds.Credentials.from_username("dagster")
            if keeps
            else rds.Credentials.from_generated_secret("dagster", encryption_key=self._key),
            manage_master_user_password=True if keeps else None,
            allocated_storage=20,
            # Dagster's history grows by about a gigabyte a year at a tick every five minutes.
            max_allocated_storage=100,
            storage_type=rds.StorageType.GP3,
            storage_encrypted=True,
            storage_encryption_key=self._key,
            backup_retention=cdk.Duration.days(14 if keeps else 1),
            # After midnight's runs and before the nightly maintenance.
            preferred_backup_window="02:00-02:30",
            preferred_maintenance_window="sun:05:00-sun:06:00",
            copy_tags_to_snapshot=True,
            deletion_protection=keeps,
            removal_policy=cdk.RemovalPolicy.SNAPSHOT if keeps else cdk.RemovalPolicy.DESTROY,
            auto_minor_version_upgrade=True,
            cloudwatch_logs_exports=["postgresql", "upgrade"] if keeps else None,
        )
        secret = database.secret
        assert secret is not None  # noqa: S101 - both ways of making credentials make one
        self._password: secretsmanager.ISecret = secret
        child = database.node.default_child
        assert isinstance(child, cdk.CfnResource)  # noqa: S101 - every L2 construct of CDK has one
        skip(child, "Of a database this small, its CPU, storage and log say enough.", "CKV_AWS_118")
        skip(
            child,
            "Dagster opens a connection for each thing that it does: more than tokens are made for.",
            "CKV_AWS_161",
        )
        if not keeps:
            skip(child, "dev is one small instance that is made anew.", "CKV_AWS_157")
        accept(database, "Nobody connects from outside, and Dagster's own settings say 5432.", "AwsSolutions-RDS11")
        if not keeps:
            accept(
                database,
                "dev is one small instance that is made anew: no second zone, no protection, no rotation.",
                "AwsSolutions-RDS3",
                "AwsSolutions-RDS10",
                "AwsSolutions-SMG4",
            )
        return database

    def _state_files(self) -> efs.AccessPoint:
        """What runs share: how much of a provider's plan is spent, and who holds the lake's lease."""
        files = efs.FileSystem(
            self,
            "State",
            file_system_name=self._stage.named("state"),
            vpc=self.network.vpc,
            vpc_subnets=self.network.tasks,
            security_group=self.network.groups["state"],
            encrypted=True,
            kms_key=self._key,
            performance_mode=efs.PerformanceMode.GENERAL_PURPOSE,
            throughput_mode=efs.ThroughputMode.ELASTIC,
            enable_automatic_backups=self._stage.keeps_data,
            removal_policy=self._stage.removal,
            allow_anonymous_access=False,
        )
        self._files = files
        return files.add_access_point(
            "Nobody",
            path="/state",
            create_acl=efs.Acl(owner_gid=_NOBODY, owner_uid=_NOBODY, permissions="750"),
            posix_user=efs.PosixUser(gid=_NOBODY, uid=_NOBODY),
        )

    # ---- tasks ----

    def _cluster(self) -> ecs.Cluster:
        self._namespace_name = f"{self._stage.named('internal')}.local"
        return ecs.Cluster(
            self,
            "Cluster",
            cluster_name=self._stage.cluster,
            vpc=self.network.vpc,
            container_insights_v2=ecs.ContainerInsights.ENABLED,
            default_cloud_map_namespace=ecs.CloudMapNamespaceOptions(
                name=self._namespace_name, type=servicediscovery.NamespaceType.DNS_PRIVATE, vpc=self.network.vpc
            ),
        )

    def _log_group(self, component: str) -> logs.LogGroup:
        return logs.LogGroup(
            self,
            f"{_word(component)}Logs",
            log_group_name=f"/{self._stage.named(component)}",
            encryption_key=self._key,
            retention=logs.RetentionDays.SIX_MONTHS if self._stage.keeps_data else logs.RetentionDays.ONE_MONTH,
            removal_policy=self._stage.removal,
        )

    def _task(
        self, component: str, command: Sequence[str] | None = None, *, name: str | None = None
    ) -> ecs.FargateTaskDefinition:
        size, name = _SIZES[component], name or component
        task = ecs.FargateTaskDefinition(
            self,
            f"{_word(name)}Task",
            family=self._stage.named(name),
            cpu=size.cpu,
            memory_limit_mib=size.memory_mib,
            task_role=self._access.roles[component],
            runtime_platform=ecs.RuntimePlatform(
                cpu_architecture=ecs.CpuArchitecture.X86_64, operating_system_family=ecs.OperatingSystemFamily.LINUX
            ),
        )
        writable = {"tmp": "tmp"}
        if component == "webserver":
            writable |= {f"agent{i}": folder for i, folder in enumerate(_AGENT)}
        for volume in writable:
            task.add_volume(name=volume)
        health = _HEALTH.get(component)
        container = task.add_container(
            name,
            container_name=name,
            image=self._image,
            command=list(command or _COMMANDS[component]),
            environment=self._environment(component),
            secrets=self._secrets(component),
            port_mappings=[ecs.PortMapping(container_port=port) for port in _PORTS.get(component, ())],
            user=f"{_NOBODY}:{_NOBODY}",
            readonly_root_filesystem=True,
            # A process that reaps what a run leaves, and passes on the signal to stop.
            linux_parameters=ecs.LinuxParameters(self, f"{_word(name)}Init", init_process_enabled=True),
            # A run that is asked to stop ends its commit first; two minutes are the most that Fargate gives.
            stop_timeout=cdk.Duration.seconds(120 if component == "run" else 60),
            logging=ecs.LogDrivers.aws_logs(stream_prefix=name, log_group=self.log_groups[component]),
            health_check=ecs.HealthCheck(
                command=["CMD-SHELL", health],
                interval=cdk.Duration.seconds(60),
                timeout=cdk.Duration.seconds(30),
                retries=3,
                start_period=cdk.Duration.seconds(120),
            )
            if health
            else None,
        )
        container.add_mount_points(
            *(
                ecs.MountPoint(source_volume=volume, container_path=f"/{folder}", read_only=False)
                for volume, folder in writable.items()
            )
        )
        if self._secrets(component):
            # Whoever starts a task hands it its secrets. The CDK allows it these, and leaves out another stack's key.
            task.add_to_execution_role_policy(
                iam.PolicyStatement(
                    sid="DecryptSecrets",
                    actions=["kms:Decrypt"],
                    resources=[self._key.key_arn],
                    conditions={
                        "StringEquals": {"kms:ViaService": f"secretsmanager.{self._stage.region}.amazonaws.com"}
                    },
                )
            )
        if component in _WITH_STATE:
            self._mount_state(task, container)
        accept(
            task,
            "Names of buckets, tables and plans; what is secret is in Secrets Manager.",
            "AwsSolutions-ECS2",
        )
        accept(task, "ECR gives out its token for the account as a whole.", "AwsSolutions-IAM5[Resource::*]")
        return task

    def _mount_state(self, task: ecs.FargateTaskDefinition, container: ecs.ContainerDefinition) -> None:
        task.add_volume(
            name="state",
            efs_volume_configuration=ecs.EfsVolumeConfiguration(
                file_system_id=self._files.file_system_id,
                transit_encryption="ENABLED",
                authorization_config=ecs.AuthorizationConfig(
                    access_point_id=self._state.access_point_id, iam="ENABLED"
                ),
            ),
        )
        container.add_mount_points(ecs.MountPoint(source_volume="state", container_path="/state", read_only=False))

    def _allow_state(self) -> None:
        for component in (*_WITH_STATE, "maintenance"):
            self._allow(
                component,
                "State",
                iam.PolicyStatement(
                    actions=["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"],
                    resources=[self._files.file_system_arn],
                    conditions={"StringEquals": {"elasticfilesystem:AccessPointArn": self._state.access_point_arn}},
                ),
            )

    def _allow(self, component: str, what: str, *statements: iam.PolicyStatement) -> None:
        policy = iam.Policy(
            self,
            f"{_word(component)}{what}",
            policy_name=self._stage.named(f"{component}-{what.lower()}"),
            statements=list(statements),
            roles=[self._access.roles[component]],
        )
        accept(
            policy,
            "Actions that AWS knows for the account only, or on tasks and log streams, whose names come with them.",
            *(
                f"AwsSolutions-IAM5[Resource::{resource}]"
                for statement in statements
                for resource in statement.resources
                if resource.endswith("*")
            ),
        )

    def _allow_runs(self) -> None:
        """The daemon launches runs, follows and ends them; the webserver ends them. Nobody else does."""
        stage = self._stage
        cluster = {"ArnEquals": {"ecs:cluster": stage.arn("ecs", f"cluster/{stage.cluster}")}}
        tasks = stage.arn("ecs", f"task/{stage.cluster}/*")
        execution = self.tasks["run"].execution_role
        assert execution is not None  # noqa: S101 - it has secrets and logs, and so a role to read and write them
        ends = [
            # Not to be had for one family.
            iam.PolicyStatement(actions=["ecs:DescribeTaskDefinition"], resources=["*"]),
            iam.PolicyStatement(actions=["ecs:DescribeTasks", "ecs:StopTask"], resources=[tasks], conditions=cluster),
        ]
        self._allow("webserver", "Runs", *ends)
        self._allow(
            "daemon",
            "Runs",
            *ends,
            iam.PolicyStatement(
                actions=["ecs:RunTask"],
                resources=[stage.arn("ecs", f"task-definition/{stage.named('run')}:*")],
                conditions=cluster,
            ),
            iam.PolicyStatement(
                actions=["ecs:TagResource"],
                resources=[tasks],
                conditions={"StringEquals": {"ecs:CreateAction": "RunTask"}},
            ),
            # It asks for its own task's addresses, to give runs the same network.
            iam.PolicyStatement(actions=["ec2:DescribeNetworkInterfaces"], resources=["*"]),
            iam.PolicyStatement(
                actions=["iam:PassRole"],
                resources=[stage.role_arn("run"), stage.role_arn("maintenance"), execution.role_arn],
                conditions={"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
            ),
            # The last words of a task that died go into the run's history.
            iam.PolicyStatement(
                actions=["logs:GetLogEvents"],
                resources=[stage.arn("logs", f"log-group:/{stage.named('run')}:log-stream:*")],
            ),
        )
        # Port forwarding into the UI's task: who may start a session is for the account to say.
        self._allow(
            "webserver",
            "Sessions",
            iam.PolicyStatement(
                actions=[
                    "ssmmessages:CreateControlChannel",
                    "ssmmessages:CreateDataChannel",
                    "ssmmessages:OpenControlChannel",
                    "ssmmessages:OpenDataChannel",
                ],
                resources=["*"],
            ),
        )

    # ---- services ----

    def _service(self, component: str, *, name: str | None = None, group: str | None = None) -> ecs.FargateService:
        name = name or component
        is_alone = component in {"daemon", "stream-collect", "stream-consume"}
        service = ecs.FargateService(
            self,
            f"{_word(name)}Service",
            service_name=name,
            cluster=self.cluster,
            task_definition=self.tasks[name],
            desired_count=1,
            assign_public_ip=self.network.is_public,
            vpc_subnets=self.network.tasks,
            security_groups=[self.network.groups[group or {"daemon": "worker"}.get(component, component)]],
            platform_version=ecs.FargatePlatformVersion.VERSION1_4,
            # Two daemons would launch a run twice, two collectors write a journal twice: the old one ends first.
            min_healthy_percent=0 if is_alone else 100,
            max_healthy_percent=100 if is_alone else 200,
            circuit_breaker=ecs.DeploymentCircuitBreaker(enable=True, rollback=True),
            cloud_map_options=ecs.CloudMapOptions(name="code", dns_ttl=cdk.Duration.seconds(10))
            if component == "code"
            else None,
            enable_execute_command=component == "webserver",
            propagate_tags=ecs.PropagatedTagSource.SERVICE,
        )
        if self.network.is_public:
            child = service.node.default_child
            assert isinstance(child, cdk.CfnResource)  # noqa: S101
            skip(child, "A way out without NAT: its group lets nobody in.", "CKV_AWS_333")
        return service

    def _streams(self, feeds: Sequence[str]) -> None:
        """A collector for each feed, which is one websocket, and one consumer of all."""
        stream = f"kinesis://{self._stage.named('trades')}"
        commands = {
            f"stream-collect-{feed.removesuffix('_stream')}": ("collect", "--feed", feed, "--to", stream)
            for feed in feeds
        }
        commands["stream-consume"] = ("consume", "--from", stream)
        for name, words in commands.items():
            component = "-".join(name.split("-")[:2])
            self.tasks[name] = self._task(component, ("crypto-assets", "stream", *words), name=name)
            self.services[name] = self._service(component, name=name, group="stream")

    # ---- the way in ----

    def _balancer(self, door: Door) -> elb.ApplicationLoadBalancer:
        balancer = elb.ApplicationLoadBalancer(
            self,
            "Door",
            load_balancer_name=self._stage.named("ui"),
            vpc=self.network.vpc,
            internet_facing=True,
            security_group=self.network.groups["door"],
            vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC),
            drop_invalid_header_fields=True,
            deletion_protection=self._stage.keeps_data,
        )
        balancer.log_access_logs(self._storage.logs, "ui")
        target = elb.ApplicationTargetGroup(
            self,
            "Ui",
            vpc=self.network.vpc,
            port=3000,
            protocol=elb.ApplicationProtocol.HTTP,
            targets=[self.services["webserver"]],
            deregistration_delay=cdk.Duration.seconds(30),
            health_check=elb.HealthCheck(path="/server_info", interval=cdk.Duration.seconds(30)),
        )
        balancer.add_listener(
            "Https",
            port=443,
            protocol=elb.ApplicationProtocol.HTTPS,
            ssl_policy=elb.SslPolicy.TLS13_RES,
            certificates=[elb.ListenerCertificate.from_arn(door.certificate_arn)],
            # The group says from where.
            open=False,
            default_action=elb.ListenerAction.authenticate_oidc(
                issuer=door.oidc["oidc_issuer"],
                authorization_endpoint=door.oidc["oidc_authorization_endpoint"],
                token_endpoint=door.oidc["oidc_token_endpoint"],
                user_info_endpoint=door.oidc["oidc_user_info_endpoint"],
                client_id=door.oidc["oidc_client_id"],
                client_secret=cdk.SecretValue.secrets_manager(door.oidc["oidc_secret_arn"]),
                scope="openid",
                session_timeout=cdk.Duration.hours(8),
                next=elb.ListenerAction.forward([target]),
            ),
        )
        cdk.CfnOutput(self, "UiAddress", value=balancer.load_balancer_dns_name)
        return balancer

    def _say_how_to_get_in(self) -> None:
        cdk.CfnOutput(
            self,
            "ClusterName",
            value=self.cluster.cluster_name,
            description="docs/aws.md says how the UI is reached through it",
        )


def _word(component: str) -> str:
    """``stream-collect`` as the first part of a logical id."""
    return component.title().replace("-", "").replace("_", "")
