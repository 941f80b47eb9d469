"""A local AWS whose Athena answers: an account's endpoint on 127.0.0.1 for tests and for work without an account.

Belongs here: Athena's protocol, its states, its words for errors, its result files, its DDL for Delta tables. What it
stands on is elsewhere: every other service is moto's, tables are what Glue says, and SQL is answered by
``resources/query.py``. Nothing of the product imports this package but the command that serves it.

How a query goes: `server` takes the request, `protocol` judges it and hands it to `executions`, whose threads take one
of the engine processes of `worker`; there `answering` reads the Delta tables, and `results` writes values, CSV and
types as Athena does. `ddl` changes Glue, and `catalog` reads it.

Left out are INSERT, CTAS and UNLOAD: awswrangler reads with ``ctas_approach=False``, as it must at AWS for tables with
a ``timestamp with time zone``, which neither of them can write.

Athena's answers were taken from its documentation and from what others measured on AWS; where neither says, the
module's docstring does.
"""
