"""Athena's operations in JSON: what is asked of `executions` and of Glue, and how it is told.

Answered here is what runs queries or reads the catalog. Workgroups, named queries and prepared statements are kept by
moto, and are asked for there.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from crypto_assets.local_athena import catalog as glue
from crypto_assets.local_athena import ddl, statements
from crypto_assets.local_athena.catalog import Catalog
from crypto_assets.local_athena.errors import QueryError, RequestError
from crypto_assets.local_athena.executions import FINAL, Execution, Executions, new_id
from crypto_assets.local_athena.statements import Kind

Body = dict[str, Any]

_MOST_ROWS: Final = 1000
_MOST_IDS: Final = 50
_MOST_TABLES: Final = 50
_TOKEN_LENGTH: Final = range(32, 129)
_NO_OUTPUT: Final = (
    "No output location provided. An output location is required either through the Workgroup result configuration "
    "setting or as an API input."
)
_ENGINE: Final = {"SelectedEngineVersion": "AUTO", "EffectiveEngineVersion": "Athena engine version 3"}


class Protocol:
    """The operations by name; each takes a request's body and region and gives the answer's body.

    Args:
        executions: the queries.
        catalog_of: a region's Glue.
        moto_of: a region's Athena client, for what moto keeps.
        store: an S3 client.
    """

    def __init__(
        self, executions: Executions, catalog_of: Callable[[str], Catalog], moto_of: Callable[[str], Any], store: Any
    ) -> None:
        self._executions = executions
        self._catalog_of = catalog_of
        self._moto_of = moto_of
        self._store = store
        self.operations: Mapping[str, Callable[[Body, str], Body]] = {
            "BatchGetQueryExecution": self._batch,
            "GetDatabase": self._get_database,
            "GetQueryExecution": self._get,
            "GetQueryResults": self._results,
            "GetQueryRuntimeStatistics": self._runtime,
            "GetTableMetadata": self._get_table,
            "ListDatabases": self._list_databases,
            "ListQueryExecutions": self._list,
            "ListTableMetadata": self._list_tables,
            "StartQueryExecution": self._start,
            "StopQueryExecution": self._stop,
        }

    def _start(self, body: Body, region: str) -> Body:
        query = str(body.get("QueryString", ""))
        if not query.strip():
            raise RequestError.invalid("queryString is null or empty")
        if len(query.encode()) > statements.MAX_BYTES:
            raise RequestError.invalid(
                f"Query string length ({len(query.encode())}) exceeds the maximum of {statements.MAX_BYTES} bytes"
            )
        token = body.get("ClientRequestToken")
        if token is not None and len(token) not in _TOKEN_LENGTH:
            bound = "greater than or equal to 32" if len(token) < min(_TOKEN_LENGTH) else "less than or equal to 128"
            raise RequestError.invalid(
                "1 validation error detected: Value at 'clientRequestToken' failed to satisfy constraint: Member must "
                f"have length {bound}"
            )
        workgroup = body.get("WorkGroup") or "primary"
        settings = self._workgroup(workgroup, region)
        output = self._output(body, settings)
        context = body.get("QueryExecutionContext") or {}
        parameters = body.get("ExecutionParameters")
        kind, bound_sql, failure = self._judged(
            query, parameters, context.get("Database") or "default", workgroup, region
        )
        by_age = (body.get("ResultReuseConfiguration") or {}).get("ResultReuseByAgeConfiguration") or {}
        execution = Execution(
            id=new_id(),
            query=query,
            bound=bound_sql,
            parameters=parameters,
            kind=kind,
            catalog_name=context.get("Catalog"),
            database=(context.get("Database") or "").lower() or None,
            workgroup=workgroup,
            output=output,
            limit=settings.get("BytesScannedCutoffPerQuery"),
            reuse_minutes=int(by_age.get("MaxAgeInMinutes", 60)) if by_age.get("Enabled") else None,
            region=region,
            doomed=failure,
        )
        return {"QueryExecutionId": self._executions.start(execution, token)}

    def _judged(
        self, query: str, parameters: Sequence[str] | None, database: str, workgroup: str, region: str
    ) -> tuple[Kind, str, QueryError | None]:
        """The statement's kind and text with parameters; why it will fail, where that is known by now."""
        values = list(parameters or [])
        if (prepared := statements.executed(query)) is not None:
            name, given = prepared
            query, values = self._prepared(name, workgroup, region), given or values
        try:
            kind = statements.classified(query)
        except QueryError as error:
            return Kind("DML", "OTHER"), query, error
        try:
            bound = statements.bound(query, values)
            if kind.is_select:
                statements.parsed(bound)
            else:
                ddl.require_table(bound, database, self._catalog_of(region))
        except QueryError as error:
            return kind, query, error
        return kind, bound, None

    def _prepared(self, name: str, workgroup: str, region: str) -> str:
        from botocore.exceptions import ClientError

        try:
            found = self._moto_of(region).get_prepared_statement(StatementName=name, WorkGroup=workgroup)
        except ClientError:
            found = {}
        sql = (found.get("PreparedStatement") or {}).get("QueryStatement")
        if not sql:
            raise RequestError.invalid(f"PreparedStatement {name} was not found in workGroup {workgroup}")
        return str(sql)

    def _workgroup(self, name: str, region: str) -> Body:
        """A workgroup's configuration."""
        from botocore.exceptions import ClientError

        try:
            found = self._moto_of(region).get_work_group(WorkGroup=name)["WorkGroup"]
        except ClientError:
            raise RequestError.invalid(f"WorkGroup {name} is not found.") from None
        if found.get("State") == "DISABLED":
            raise RequestError.invalid(f"WorkGroup {name} is disabled.")
        configuration: Body = found.get("Configuration") or {}
        return configuration

    def _output(self, body: Body, settings: Body) -> str:
        own = (settings.get("ResultConfiguration") or {}).get("OutputLocation")
        asked = (body.get("ResultConfiguration") or {}).get("OutputLocation")
        output = own if settings.get("EnforceWorkGroupConfiguration") else asked or own
        if not output:
            raise RequestError.invalid(_NO_OUTPUT)
        address = urlsplit(output)
        if address.scheme != "s3" or not address.netloc:
            raise RequestError.invalid("outputLocation is not a valid S3 path.")
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._store.head_bucket(Bucket=address.netloc)
        except (BotoCoreError, ClientError):
            raise RequestError.invalid(f"Unable to verify/create output bucket {address.netloc}") from None
        return str(output)

    def _stop(self, body: Body, region: str) -> Body:
        self._executions.stop(_required(body, "QueryExecutionId"))
        return {}

    def _get(self, body: Body, region: str) -> Body:
        return {"QueryExecution": told(self._executions.get(_required(body, "QueryExecutionId")))}

    def _batch(self, body: Body, region: str) -> Body:
        ids = _required(body, "QueryExecutionIds")
        if len(ids) > _MOST_IDS:
            raise RequestError.invalid(f"Member must have length less than or equal to {_MOST_IDS}")
        found, missing = [], []
        for query_id in ids:
            try:
                found.append(told(self._executions.get(query_id)))
            except RequestError as error:
                missing.append(
                    {"QueryExecutionId": query_id, "ErrorCode": "INTERNAL_FAILURE", "ErrorMessage": error.message}
                )
        return {"QueryExecutions": found, "UnprocessedQueryExecutionIds": missing}

    def _list(self, body: Body, region: str) -> Body:
        ids = self._executions.of(body.get("WorkGroup") or "primary")
        shown, token = _page(ids, body, _MOST_IDS)
        return {"QueryExecutionIds": shown, **token}

    def _results(self, body: Body, region: str) -> Body:
        execution = self._executions.get(_required(body, "QueryExecutionId"))
        if execution.state not in FINAL:
            raise RequestError.invalid(
                f"Query has not yet finished. Current state: {execution.state}", "INVALID_QUERY_EXECUTION_STATE"
            )
        if execution.state == "FAILED":
            raise RequestError.invalid(
                "Query did not finish successfully. Final query state: FAILED", "INVALID_QUERY_EXECUTION_STATE"
            )
        if execution.answer is None:
            raise RequestError.invalid("Could not find results", "RESULT_NOT_FOUND")
        size = int(body.get("MaxResults") or _MOST_ROWS)
        if not 1 <= size <= _MOST_ROWS:
            raise RequestError.invalid(f"MaxResults is more than maximum allowed length {_MOST_ROWS}.")
        rows, following = execution.answer.page(_offset(body), size)
        columns = [column.body() for column in execution.answer.columns]
        answer: Body = {"ResultSet": {"Rows": rows, "ResultSetMetadata": {"ColumnInfo": columns}}}
        if columns:
            answer["UpdateCount"] = 0
        return answer | _token(following)

    def _runtime(self, body: Body, region: str) -> Body:
        execution = self._executions.get(_required(body, "QueryExecutionId"))
        answer = execution.answer
        n_rows = len(answer.rows) if answer else 0
        n_bytes = len(answer.file()) if answer else 0
        rows = {"InputRows": 0, "InputBytes": execution.bytes_scanned, "OutputRows": n_rows, "OutputBytes": n_bytes}
        timeline = {key: value for key, value in statistics(execution).items() if key.endswith("Millis")}
        return {"QueryRuntimeStatistics": {"Timeline": timeline, "Rows": rows}}

    def _list_databases(self, body: Body, region: str) -> Body:
        shown, token = _page(self._catalog_of(region).databases(), body, _MOST_TABLES)
        return {"DatabaseList": [_database(each) for each in shown], **token}

    def _get_database(self, body: Body, region: str) -> Body:
        found = glue.require_database(self._catalog_of(region), _required(body, "DatabaseName").lower())
        return {"Database": _database(found)}

    def _list_tables(self, body: Body, region: str) -> Body:
        import re

        catalog = self._catalog_of(region)
        name = _required(body, "DatabaseName").lower()
        glue.require_database(catalog, name)
        pattern = body.get("Expression")
        tables = [t for t in catalog.tables(name) or [] if pattern is None or re.fullmatch(pattern, t["Name"])]
        shown, token = _page(tables, body, _MOST_TABLES)
        return {"TableMetadataList": [glue.metadata(each) for each in shown], **token}

    def _get_table(self, body: Body, region: str) -> Body:
        catalog = self._catalog_of(region)
        database, name = _required(body, "DatabaseName").lower(), _required(body, "TableName").lower()
        glue.require_database(catalog, database)
        found = catalog.table(database, name)
        if found is None:
            raise RequestError(f"EntityNotFoundException: Table {name} not found.", kind="MetadataException")
        return {"TableMetadata": glue.metadata(found)}


def told(execution: Execution) -> Body:
    """``QueryExecution`` of the API."""
    status: Body = {"State": execution.state, "SubmissionDateTime": execution.submitted}
    if execution.reason is not None:
        status["StateChangeReason"] = execution.reason
    if execution.finished is not None:
        status["CompletionDateTime"] = execution.finished
    if execution.failure is not None:
        status["AthenaError"] = execution.failure.body()
    context = {"Database": execution.database, "Catalog": (execution.catalog_name or "").lower() or None}
    reuse: Body = {"Enabled": execution.reuse_minutes is not None}
    if execution.reuse_minutes is not None:
        reuse["MaxAgeInMinutes"] = execution.reuse_minutes
    body: Body = {
        "QueryExecutionId": execution.id,
        "Query": execution.query,
        "StatementType": execution.kind.type,
        "SubstatementType": execution.kind.substatement,
        "ResultConfiguration": {"OutputLocation": execution.file},
        "ResultReuseConfiguration": {"ResultReuseByAgeConfiguration": reuse},
        "QueryExecutionContext": {key: value for key, value in context.items() if value},
        "Status": status,
        "Statistics": statistics(execution),
        "WorkGroup": execution.workgroup,
        "EngineVersion": _ENGINE,
    }
    if execution.parameters is not None:
        body["ExecutionParameters"] = execution.parameters
    return body


def statistics(execution: Execution) -> Body:
    """``Statistics`` of the API; times in milliseconds."""
    started, finished = execution.started, execution.finished
    total = None if finished is None else finished - execution.submitted
    engine = None if finished is None or started is None else finished - started
    queued = (started or finished or execution.submitted) - execution.submitted
    told: Body = {
        "DataScannedInBytes": execution.bytes_scanned,
        "QueryQueueTimeInMillis": round(queued * 1000),
        "ServiceProcessingTimeInMillis": 0,
        "ResultReuseInformation": {"ReusedPreviousResult": execution.is_reused},
    }
    if engine is not None:
        told["EngineExecutionTimeInMillis"] = round(engine * 1000)
        told["QueryPlanningTimeInMillis"] = execution.answer.planning_ms if execution.answer else 0
    if total is not None:
        told["TotalExecutionTimeInMillis"] = round(total * 1000)
    return told


def _database(found: Mapping[str, Any]) -> Body:
    body = {"Name": found["Name"], "Parameters": found.get("Parameters", {})}
    return body | ({"Description": found["Description"]} if found.get("Description") else {})


def _required(body: Body, name: str) -> Any:
    if not body.get(name):
        raise RequestError.invalid(f"{name[0].lower()}{name[1:]} is null or empty")
    return body[name]


def _page(items: Sequence[Any], body: Body, most: int) -> tuple[Sequence[Any], Body]:
    start, size = _offset(body), min(int(body.get("MaxResults") or most), most)
    stop = start + size
    return items[start:stop], _token(stop if stop < len(items) else None)


def _offset(body: Body) -> int:
    token = body.get("NextToken")
    if not token:
        return 0
    try:
        return int(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError):
        raise RequestError.invalid("NextToken is invalid", "INVALID_NEXT_TOKEN") from None


def _token(offset: int | None) -> Body:
    return {} if offset is None else {"NextToken": base64.urlsafe_b64encode(str(offset).encode()).decode()}
