"""The stream stack."""

from __future__ import annotations

from templates import Templates


def test_trades_are_encrypted_and_outlive_a_weekend(stage: Templates) -> None:
    (stream,) = stage.all("AWS::Kinesis::Stream")
    (key,) = stage.all("AWS::KMS::Key", "storage")
    assert stream.properties["StreamEncryption"] == {
        "EncryptionType": "KMS",
        "KeyId": stage.resolved(key.stack, {"Fn::GetAtt": [key.logical_id, "Arn"]}),
    }
    assert stream.properties["RetentionPeriodHours"] == 72
    assert stream.properties["StreamModeDetails"] == {"StreamMode": "ON_DEMAND"}
    assert stream.properties["Name"].endswith("-trades")
