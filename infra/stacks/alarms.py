"""What somebody is told of, each alarm with what it means and why at this number. All go to the one topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_kinesis as kinesis
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_sns as sns
from constructs import Construct

from stacks.stage import Stage

_GB = 1_000_000_000
# A day of people's and the dashboard's queries, at 5 USD a TB: 1 USD and 5 USD.
_SCANNED_GB_A_DAY = {"dev": 200, "prod": 1000}
_MORE, _LESS = (
    cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
    cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
)
_QUIET, _ALARMING = cloudwatch.TreatMissingData.NOT_BREACHING, cloudwatch.TreatMissingData.BREACHING


class Alarms(Construct):
    """Alarms of runs, Dagster's processes, streams, database, queries and the UI."""

    def __init__(
        self,
        scope: Construct,
        stage: Stage,
        *,
        topic: sns.ITopic,
        services: Mapping[str, ecs.FargateService],
        log_groups: Mapping[str, logs.LogGroup],
        database: rds.DatabaseInstance,
        stream: kinesis.Stream | None,
        balancer: elb.ApplicationLoadBalancer | None,
    ) -> None:
        super().__init__(scope, "Alarms")
        self._stage = stage
        self._action = actions.SnsAction(topic)
        self._runs(log_groups["code"])
        self._daemon(log_groups["daemon"])
        self._restarts(services)
        if stream is not None:
            self._stream(stream)
        self._database(database)
        self._queries()
        if balancer is not None:
            self._ui(balancer)

    def _alarm(
        self,
        name: str,
        told: str,
        metric: cloudwatch.IMetric,
        threshold: float,
        *,
        operator: cloudwatch.ComparisonOperator = _MORE,
        periods: int = 1,
        missing: cloudwatch.TreatMissingData = _QUIET,
    ) -> None:
        alarm = cloudwatch.Alarm(
            self,
            name,
            alarm_name=self._stage.named("".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")),
            alarm_description=told,
            metric=metric,
            threshold=threshold,
            comparison_operator=operator,
            evaluation_periods=periods,
            treat_missing_data=missing,
        )
        alarm.add_alarm_action(self._action)
        alarm.add_ok_action(self._action)

    def _runs(self, code: logs.LogGroup) -> None:
        """The run failure sensor writes one line a failed run (``automation/sensors.py``)."""
        filtered = code.add_metric_filter(
            "FailedRuns",
            filter_name="failed-runs",
            filter_pattern=logs.FilterPattern.literal('[run="run", id, of="of", job, failed="failed:", ...]'),
            metric_namespace=self._stage.named("dagster"),
            metric_name="FailedRuns",
            metric_value="1",
            default_value=0,
        )
        self._alarm(
            "RunFailed",
            "A run failed; Dagster's UI says which and why. Data are whole: what is committed is complete.",
            filtered.metric(statistic="sum", period=cdk.Duration.minutes(5)),
            0,
        )

    def _daemon(self, daemon: logs.LogGroup) -> None:
        self._alarm(
            "DaemonSilent",
            "Dagster's daemon has said nothing for ten minutes: no schedule, sensor or queued run starts. "
            "It looks at its sensors each half minute, and says so.",
            cloudwatch.Metric(
                namespace="AWS/Logs",
                metric_name="IncomingLogEvents",
                dimensions_map={"LogGroupName": daemon.log_group_name},
                statistic="sum",
                period=cdk.Duration.minutes(10),
            ),
            1,
            operator=_LESS,
            missing=_ALARMING,
        )

    def _restarts(self, services: Mapping[str, ecs.FargateService]) -> None:
        for name, service in services.items():
            words = name.title().replace("-", "")
            self._alarm(
                f"{words}Down",
                f"The service {name} has had no running task for ten minutes; its events and its log group say why.",
                cloudwatch.Metric(
                    namespace="ECS/ContainerInsights",
                    metric_name="RunningTaskCount",
                    dimensions_map={
                        "ClusterName": service.cluster.cluster_name,
                        "ServiceName": service.service_name,
                    },
                    statistic="maximum",
                    period=cdk.Duration.minutes(5),
                ),
                1,
                operator=_LESS,
                # A deployment of what runs alone takes a few minutes.
                periods=2,
                missing=_ALARMING,
            )

    def _stream(self, stream: kinesis.Stream) -> None:
        self._alarm(
            "StreamLate",
            "The consumer is a quarter of an hour behind: trades wait in the stream, which keeps them three days.",
            stream.metric_get_records_iterator_age_milliseconds(statistic="maximum", period=cdk.Duration.minutes(5)),
            cdk.Duration.minutes(15).to_milliseconds(),
        )
        self._alarm(
            "StreamSilent",
            "No trade for a quarter of an hour. No market is that quiet: the collector or its provider is down.",
            stream.metric_incoming_records(statistic="sum", period=cdk.Duration.minutes(15)),
            1,
            operator=_LESS,
            missing=_ALARMING,
        )

    def _database(self, database: rds.DatabaseInstance) -> None:
        self._alarm(
            "DatabaseFull",
            "Dagster's database has less than 3 GB left and cannot grow by itself any more: purge old events.",
            database.metric_free_storage_space(statistic="minimum", period=cdk.Duration.minutes(15)),
            3 * _GB,
            operator=_LESS,
        )
        self._alarm(
            "DatabaseBusy",
            "Dagster's database has been above 80 % of its CPU for half an hour: a larger instance, or fewer sensors.",
            database.metric_cpu_utilization(statistic="average", period=cdk.Duration.minutes(15)),
            80,
            periods=2,
        )

    def _queries(self) -> None:
        limit = _SCANNED_GB_A_DAY[self._stage.name]
        for name, workgroup in (("Queries", self._stage.workgroup), ("Dashboard", self._stage.dashboard_workgroup)):
            self._alarm(
                f"{name}Expensive",
                f"Athena's workgroup {workgroup} has read more than {limit} GB in a day, {limit * 0.005:g} USD.",
                cloudwatch.Metric(
                    namespace="AWS/Athena",
                    metric_name="ProcessedBytes",
                    dimensions_map=self._finished(workgroup),
                    statistic="sum",
                    period=cdk.Duration.days(1),
                ),
                limit * _GB,
            )

    def _finished(self, workgroup: str) -> dict[str, Any]:
        return {"WorkGroup": workgroup, "QueryState": "SUCCEEDED", "QueryType": "DML"}

    def _ui(self, balancer: elb.ApplicationLoadBalancer) -> None:
        self._alarm(
            "UiFailing",
            "Dagster's UI answered ten requests of five minutes with errors of its own, or not at all.",
            cloudwatch.MathExpression(
                expression="FILL(targets, 0) + FILL(own, 0)",
                using_metrics={
                    "targets": balancer.metrics.http_code_target(
                        elb.HttpCodeTarget.TARGET_5XX_COUNT, statistic="sum", period=cdk.Duration.minutes(5)
                    ),
                    "own": balancer.metrics.http_code_elb(
                        elb.HttpCodeElb.ELB_5XX_COUNT, statistic="sum", period=cdk.Duration.minutes(5)
                    ),
                },
                period=cdk.Duration.minutes(5),
            ),
            10,
        )
