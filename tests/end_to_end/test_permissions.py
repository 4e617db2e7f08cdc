"""The policies of infra/aws, enforced by a server while each command does its work."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.end_to_end.command_line import Said, environment, ncbatch
from tests.end_to_end.images import save_images
from tests.end_to_end.runs import output_store, rows
from tests.infra.test_aws import TEMPLATE
from tests.servers import S3Server, started_moto

CORPUS, OUTPUT = "photos-raw", "photos-encoded"
_REFUSED = r"AccessDenied|Forbidden|403"


@dataclass(frozen=True)
class Account:
    """An account on a server that refuses whatever no policy allows."""

    server: S3Server
    policies: dict[str, str]

    def user(self, *policies: str) -> S3Server:
        """The server as somebody reaches it who has just these policies of the stack."""
        iam = self.client("iam")
        name = "-".join(policies) or "nobody"
        iam.create_user(UserName=name)
        for policy in policies:
            iam.attach_user_policy(UserName=name, PolicyArn=self.policies[policy])
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return replace(self.server, access_key=key["AccessKeyId"], secret_key=key["SecretAccessKey"])

    def client(self, service: str) -> Any:
        """A client of the account's administrator."""
        return _client(self.server, service)


def _client(server: S3Server, service: str) -> Any:
    return boto3.client(  # type: ignore[call-overload]
        service,
        endpoint_url=server.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """The stack brought up in an account whose permissions are enforced from then on."""
    with started_moto(tmp_path_factory.mktemp("moto")) as server:
        _client(server, "s3").create_bucket(Bucket=CORPUS)
        formation = _client(server, "cloudformation")
        parameters = {
            "CorpusBucket": CORPUS,
            "OutputBucket": OUTPUT,
            "ClusterIssuer": "oidc.example.com/id/1",
        }
        formation.create_stack(
            StackName="ncbatch",
            TemplateBody=TEMPLATE.read_text(),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
        )
        (stack,) = formation.describe_stacks(StackName="ncbatch")["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        policies = {kind: outputs[f"{kind}PolicyArn"] for kind in ("Run", "Reader", "Maintainer")}

        iam = _client(server, "iam")
        iam.create_user(UserName="administrator")
        everything = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
        }
        iam.put_user_policy(UserName="administrator", PolicyName="all", PolicyDocument=json.dumps(everything))
        key = iam.create_access_key(UserName="administrator")["AccessKey"]
        enforce = urllib.request.Request(
            f"{server.endpoint_url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}
        )
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(enforce, timeout=60)
        server = replace(server, access_key=key["AccessKeyId"], secret_key=key["SecretAccessKey"])
        yield Account(server, policies)


def test_the_role_of_a_run_is_for_one_service_account_of_one_cluster(account: Account) -> None:
    iam = account.client("iam")
    (role,) = [role for role in iam.list_roles()["Roles"] if "RunRole" in role["RoleName"]]
    (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Condition"]["StringEquals"] == {
        "oidc.example.com/id/1:aud": "sts.amazonaws.com",
        "oidc.example.com/id/1:sub": "system:serviceaccount:ncbatch:ncbatch",
    }
    # moto attaches no policies to the roles of a stack, so that is read where it is written.
    assert "ManagedPolicyArns: [!Ref RunPolicy]" in TEMPLATE.read_text()


@pytest.mark.ray
@pytest.mark.s3
def test_each_command_has_the_rights_that_it_needs_and_no_others(
    account: Account,
    said: Said,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = save_images(tmp_path, 2)
    for key in keys:
        account.client("s3").put_object(Bucket=CORPUS, Key=key, Body=(tmp_path / key).read_bytes())
    corpus, output = f"s3://{CORPUS}/", f"s3://{OUTPUT}/run1/"
    runner, reader, nobody = account.user("Run"), account.user("Reader"), account.user()
    maintainer = account.user("Run", "Maintainer")

    encode = ("encode", corpus, output, "--method", "sga", "--steps", "4", "--workers", "1")
    refused = ncbatch(*encode, env=environment(**nobody.environment()))
    assert refused.code != 0 and "Traceback" not in refused.err, str(refused)
    assert "2 images ok" in ncbatch(*encode, env=environment(**runner.environment())).expect(0).out

    runner.use(monkeypatch)
    run = output_store(output)
    assert set(rows(run)) == set(keys) and not list(run.list("wip/")) and run.head("lease.json") is None
    bitstream = next(info.key for info in run.list("bitstreams/"))
    said("compact", output).expect(0)
    said("verify", output).expect(0)
    with pytest.raises(ClientError, match=_REFUSED):
        runner.client().delete_object(Bucket=OUTPUT, Key=f"run1/{bitstream}")
    with pytest.raises(ClientError, match=_REFUSED):
        runner.client().put_object(Bucket=CORPUS, Key=keys[0], Body=b"")

    reader.use(monkeypatch)
    said("status", output).expect(0)
    said("verify", output).expect(0)
    assert said("query", output, "select count(*) as n from metrics").expect(0).out.split()[-1] == "2"
    said("decode", output, tmp_path / "decoded").expect(0)
    assert len(list((tmp_path / "decoded").iterdir())) == 2
    with pytest.raises(ClientError, match=_REFUSED):
        reader.client().put_object(Bucket=OUTPUT, Key="run1/units/x", Body=b"")
    with pytest.raises(ClientError, match=_REFUSED):
        reader.client().get_object(Bucket=CORPUS, Key=keys[0])

    maintainer.use(monkeypatch)
    run.put("bitstreams/sga/stray.png.ncb", b"of nobody")
    said("gc", output, "--delete", "--older-than", "0").expect(0)
    assert next((i for i in run.list("bitstreams/") if "stray" in i.key), None) is None
