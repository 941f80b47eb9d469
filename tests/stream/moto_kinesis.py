"""moto's server with a Kinesis that reshards as AWS does: ``python moto_kinesis.py PORT``.

moto moves the records of a shard that is split or merged, goes on to write by key to the closed one, and never ends it.
On AWS records stay, new ones go to the open shards, and a closed shard ends behind its last record. Its sequence
numbers are 1, 2, 3; on AWS they have 56 digits. Its counter is not safe where requests come at once.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from hashlib import md5
from typing import Any

from moto.kinesis.models import KinesisBackend, Shard, Stream
from moto.server import main

FIRST_NUMBER = 49546986683135544286507457936321625675700192471156785154
_LOCK = threading.RLock()
_split, _merge, _put = Stream.split_shard, Stream.merge_shards, Stream.put_record
_put_into, _get_records = Shard.put_record, KinesisBackend.get_records


def shard_for_key(stream: Stream, partition_key: str, explicit_hash_key: str | None) -> Shard | None:
    place = int(explicit_hash_key or int(md5(partition_key.encode(), usedforsecurity=False).hexdigest(), 16))
    found = (s for s in stream.shards.values() if s.is_open and s.starting_hash <= place <= s.ending_hash)
    return next(found, None)


def without_moving(reshape: Any) -> Any:
    def reshaped(stream: Stream, *told: Any) -> None:
        with _LOCK:
            before = {shard.shard_id: shard.records for shard in stream.shards.values()}
            for shard in stream.shards.values():
                shard.records = OrderedDict()
            try:
                reshape(stream, *told)
            finally:
                for shard_id, records in before.items():
                    stream.shards[shard_id].records = records

    return reshaped


def put_record(stream: Stream, *told: Any) -> Any:
    with _LOCK:
        return _put(stream, *told)


def put_into(shard: Shard, partition_key: str, data: str, explicit_hash_key: str) -> str:
    if shard.records:
        return str(_put_into(shard, partition_key, data, explicit_hash_key))
    # The children's numbers are above their parents'.
    told = str(_put_into(shard, partition_key, data, explicit_hash_key))
    record = shard.records.pop(int(told))
    record.sequence_number = FIRST_NUMBER + shard._shard_id * 10**30
    shard.records[record.sequence_number] = record
    return str(record.sequence_number)


def get_records(backend: KinesisBackend, stream_arn: Any, shard_iterator: str, limit: Any) -> Any:
    with _LOCK:
        following, records, behind = _get_records(backend, stream_arn, shard_iterator, limit)
        from moto.kinesis.utils import decompose_shard_iterator

        stream_name, shard_id, last = decompose_shard_iterator(following)
        shard = backend.describe_stream(stream_arn=None, stream_name=stream_name).get_shard(shard_id)
        is_over = not shard.is_open and int(last) >= shard.get_max_sequence_number()
        return (None if is_over else following), records, behind


if __name__ == "__main__":
    Stream.get_shard_for_key = shard_for_key  # type: ignore[method-assign]
    Stream.split_shard = without_moving(_split)  # type: ignore[method-assign]
    Stream.merge_shards = without_moving(_merge)  # type: ignore[method-assign]
    Stream.put_record = put_record  # type: ignore[method-assign]
    Shard.put_record = put_into  # type: ignore[method-assign]
    KinesisBackend.get_records = get_records  # type: ignore[method-assign]
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
