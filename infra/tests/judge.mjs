// Answers, a line of JSON each, whether a role may do something: by AWS' rules, as iam-simulate knows them.
// The first line tells the policies: {roles: {arn: {identity: [...], boundary}}, resources: {arn: policy}, keys: [arn]}.
// Every other line asks: {role, action, resource, context}; the answer has {result, by} or {error}.
import { createInterface } from "node:readline";
import { runSimulation } from "@cloud-copilot/iam-simulate";

const everything = { Version: "2012-10-17", Statement: [{ Effect: "Allow", Action: "*", Resource: "*" }] };
let known;

async function judged({ role, action, resource, context }) {
  const account = role.split(":")[4];
  const { identity, boundary } = known.roles[role];
  const resourcePolicy = known.resources[resource] ?? known.resources[resource.split("/")[0]];
  const answer = await runSimulation(
    {
      request: {
        principal: role,
        action,
        resource: { resource, accountId: account },
        contextVariables: { "aws:PrincipalArn": role, "aws:SecureTransport": "true", ...context },
      },
      identityPolicies: identity.map((policy, i) => ({ name: `policy${i}`, policy })),
      permissionBoundaryPolicies: boundary ? [{ name: "boundary", policy: boundary }] : undefined,
      serviceControlPolicies: [{ orgIdentifier: "o", policies: [{ name: "all", policy: everything }] }],
      resourceControlPolicies: [],
      resourcePolicy,
    },
    {},
  );
  if (answer.resultType === "error") return { error: JSON.stringify(answer.errors) };
  return { result: answer.overallResult };
}

for await (const line of createInterface({ input: process.stdin })) {
  const told = JSON.parse(line);
  if (!known) known = told;
  else process.stdout.write(JSON.stringify(await judged(told)) + "\n");
}
