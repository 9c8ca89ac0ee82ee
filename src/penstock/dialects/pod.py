"""Pods and containers, as far as serving manifests embed them: every field known, few of them read.

What Penstock reads is typed; the rest is known by name only, goes to backends that run containers as it was
written, and has a row in `POD_ROWS` or `CONTAINER_ROWS` that says what becomes of it where replicas are
processes.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from penstock.dialects.accelerators import Asked, is_accelerator
from penstock.dialects.schema import Spec, path
from penstock.dialects.support import Row, no_effect, refused
from penstock.domain.names import env_problem
from penstock.domain.quantity import parse_bytes, parse_cpu, parse_quantity
from penstock.domain.service import EnvVar as DomainEnvVar
from penstock.domain.service import Resources as DomainResources
from penstock.errors import FieldProblem

At = tuple[int | str, ...]
Loose = dict[str, Any]


class KeySelector(Spec):
    """A key of a Secret or a ConfigMap."""

    name: str | None = None
    key: str
    optional: bool | None = None


class EnvVarSource(Spec):
    secret_key_ref: KeySelector | None = None
    config_map_key_ref: Loose | None = None
    field_ref: Loose | None = None
    resource_field_ref: Loose | None = None
    file_key_ref: Loose | None = None


class EnvVar(Spec):
    name: str
    value: str | None = None
    value_from: EnvVarSource | None = None


class ResourceRequirements(Spec):
    """Quantities by resource name; read by `resources_of`."""

    requests: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None
    claims: list[Loose] | None = None


class ContainerFields(Spec):
    """The fields of a container, without the name (which a framework block must not have)."""

    name: str | None = None
    image: str | None = None
    image_pull_policy: str | None = None
    command: list[str] | None = None
    args: list[str] | None = None
    working_dir: str | None = None
    ports: list[Loose] | None = None
    env: list[EnvVar] | None = None
    env_from: list[Loose] | None = None
    resources: ResourceRequirements | None = None
    resize_policy: list[Loose] | None = None
    restart_policy: str | None = None
    restart_policy_rules: list[Loose] | None = None
    volume_mounts: list[Loose] | None = None
    volume_devices: list[Loose] | None = None
    liveness_probe: Loose | None = None
    readiness_probe: Loose | None = None
    startup_probe: Loose | None = None
    lifecycle: Loose | None = None
    termination_message_path: str | None = None
    termination_message_policy: str | None = None
    security_context: Loose | None = None
    stdin: bool | None = None
    stdin_once: bool | None = None
    tty: bool | None = None


class Container(ContainerFields):
    """A user's own container; `image` is required by whoever runs it."""


class PodFields(Spec):
    """The fields of a pod, which KServe puts inline into every component."""

    containers: list[Container] | None = None
    init_containers: list[Loose] | None = None
    ephemeral_containers: list[Loose] | None = None
    volumes: list[Loose] | None = None
    restart_policy: str | None = None
    termination_grace_period_seconds: Annotated[int, Field(ge=0)] | None = None
    active_deadline_seconds: int | None = None
    dns_policy: str | None = None
    node_selector: dict[str, str] | None = None
    service_account_name: str | None = None
    service_account: str | None = None
    automount_service_account_token: bool | None = None
    node_name: str | None = None
    host_network: bool | None = None
    host_pid: Annotated[bool | None, Field(alias="hostPID")] = None
    host_ipc: Annotated[bool | None, Field(alias="hostIPC")] = None
    host_users: bool | None = None
    share_process_namespace: bool | None = None
    security_context: Loose | None = None
    image_pull_secrets: list[Loose] | None = None
    hostname: str | None = None
    hostname_override: str | None = None
    subdomain: str | None = None
    affinity: Loose | None = None
    scheduler_name: str | None = None
    tolerations: list[Loose] | None = None
    host_aliases: list[Loose] | None = None
    priority_class_name: str | None = None
    priority: int | None = None
    preemption_policy: str | None = None
    dns_config: Loose | None = None
    readiness_gates: list[Loose] | None = None
    runtime_class_name: str | None = None
    enable_service_links: bool | None = None
    overhead: Loose | None = None
    topology_spread_constraints: list[Loose] | None = None
    set_hostname_as_fqdn: Annotated[bool | None, Field(alias="setHostnameAsFQDN")] = None
    os: Loose | None = None
    scheduling_gates: list[Loose] | None = None
    resource_claims: list[Loose] | None = None
    resources: ResourceRequirements | None = None


#: Names of a pod's fields in a manifest.
POD_FIELDS = tuple(info.alias or name for name, info in PodFields.model_fields.items())

PLACEMENT = "placement is for a cluster; replicas run on this machine"
CLUSTER = "is for a cluster; replicas are processes of this machine"
NEEDS_CONTAINER = "needs a container; replicas are processes of this machine"


def pod_rows(prefix: str) -> tuple[Row, ...]:
    """What becomes of the pod fields under `prefix` where replicas are processes."""
    return (
        no_effect(
            f"{prefix}.{{nodeSelector,affinity,tolerations,topologySpreadConstraints,schedulerName,nodeName,"
            "schedulingGates,readinessGates,overhead,os}",
            PLACEMENT,
        ),
        no_effect(
            f"{prefix}.{{imagePullSecrets,runtimeClassName,dnsPolicy,dnsConfig,hostname,hostnameOverride,"
            "subdomain,setHostnameAsFQDN,enableServiceLinks,automountServiceAccountToken,restartPolicy,"
            "terminationGracePeriodSeconds,activeDeadlineSeconds,shareProcessNamespace,hostUsers}",
            CLUSTER,
        ),
        no_effect(
            f"{prefix}.securityContext",
            "replicas run as the user who started penstock, without further privileges",
        ),
        refused(
            f"{prefix}.{{volumes,initContainers,ephemeralContainers,hostAliases}}",
            NEEDS_CONTAINER,
            only_processes=True,
            harmless=([],),
        ),
        refused(
            f"{prefix}.{{hostNetwork,hostPID,hostIPC}}",
            NEEDS_CONTAINER,
            only_processes=True,
            harmless=(False,),
        ),
        refused(f"{prefix}.resourceClaims", "dynamic devices need a cluster", harmless=([],)),
        refused(f"{prefix}.resources", "resources are set on the model, not on the pod"),
    )


def model_container_rows(prefix: str) -> tuple[Row, ...]:
    """What becomes of the container fields of a framework block where replicas are processes."""
    return (
        no_effect(
            f"{prefix}.{{livenessProbe,readinessProbe,startupProbe}}",
            "a replica is ready once a prediction was answered, and a hung one is replaced",
        ),
        no_effect(
            f"{prefix}.securityContext",
            "replicas run as the user who started penstock, without further privileges",
        ),
        no_effect(
            f"{prefix}.{{imagePullPolicy,terminationMessagePath,terminationMessagePolicy,stdin,stdinOnce,tty,"
            "resizePolicy,restartPolicy,restartPolicyRules}",
            CLUSTER,
        ),
        no_effect(f"{prefix}.ports", "the gateway's port serves every model"),
        refused(f"{prefix}.name", "is not allowed here; the model has the service's name"),
        no_effect(
            f"{prefix}.resources.{{limits,requests}}.ephemeral-storage",
            "disk space is not limited here",
        ),
        refused(
            f"{prefix}.{{image,command,workingDir,lifecycle}}", NEEDS_CONTAINER, only_processes=True
        ),
        refused(
            f"{prefix}.{{volumeMounts,volumeDevices}}",
            NEEDS_CONTAINER,
            only_processes=True,
            harmless=([],),
        ),
        refused(f"{prefix}.envFrom", "name the variables one by one under env", harmless=([],)),
        refused(
            f"{prefix}.env.*.valueFrom.{{configMapKeyRef,fieldRef,resourceFieldRef,fileKeyRef}}",
            "only secretKeyRef is supported; write the value instead",
        ),
        refused(f"{prefix}.resources.claims", "dynamic devices need a cluster", harmless=([],)),
    )


#: Read when the interpreter or the loader starts; a replica is forked from a process that has started.
_TOO_LATE = frozenset(
    ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONHASHSEED", "LD_PRELOAD", "LD_LIBRARY_PATH")
)


def env_of(
    variables: list[EnvVar] | None, at: At
) -> tuple[tuple[DomainEnvVar, ...], list[FieldProblem]]:
    """The variables, later ones of the same name winning as in Kubernetes, and what is wrong with them."""
    problems: list[FieldProblem] = []
    found: dict[str, DomainEnvVar] = {}
    for i, variable in enumerate(variables or ()):
        here = (*at, i)
        problem = env_problem(variable.name)
        if problem is None and variable.name in _TOO_LATE:
            problem = (
                f"{variable.name} is read before a model process exists, so it cannot be set here"
            )
        if problem:
            problems.append(FieldProblem(path((*here, "name")), problem))
            continue
        source = variable.value_from
        if source is None:
            found[variable.name] = DomainEnvVar(variable.name, value=variable.value or "")
            continue
        if variable.value:
            problems.append(
                FieldProblem(path((*here, "valueFrom")), "may not be given together with value")
            )
        given = source.model_fields_set
        if len(given) != 1:
            problems.append(
                FieldProblem(
                    path((*here, "valueFrom")), "must name exactly one source, such as secretKeyRef"
                )
            )
        elif source.secret_key_ref is not None:
            ref = source.secret_key_ref
            if not ref.name:
                problems.append(
                    FieldProblem(path((*here, "valueFrom", "secretKeyRef", "name")), "is required")
                )
            found[variable.name] = DomainEnvVar(
                variable.name,
                secret_name=ref.name,
                secret_key=ref.key,
                optional=bool(ref.optional),
            )
    return tuple(found.values()), problems


def resources_of(
    given: ResourceRequirements | None, at: At
) -> tuple[DomainResources, list[FieldProblem]]:
    """Requests and limits in cores, bytes and devices."""
    if given is None:
        return DomainResources(), []
    problems: list[FieldProblem] = []
    values: dict[tuple[str, str], Any] = {}
    accelerators = Asked()
    for side, quantities in (("requests", given.requests), ("limits", given.limits)):
        for resource, quantity in (quantities or {}).items():
            here = (*at, side, resource)
            try:
                if resource == "cpu":
                    values[side, "cpu"] = parse_cpu(quantity)
                elif resource == "memory":
                    values[side, "memory"] = parse_bytes(quantity)
                elif is_accelerator(resource):
                    accelerators.add(resource, quantity)
                elif resource == "ephemeral-storage" or resource.startswith("hugepages-"):
                    parse_quantity(quantity)
                    if resource != "ephemeral-storage":
                        raise ValueError("huge pages are not supported")
                else:
                    raise ValueError("unknown resource; cpu and memory are supported")
            except ValueError as e:
                problems.append(FieldProblem(path(here), str(e)))
    for resource in ("cpu", "memory"):
        asked, limit = values.get(("requests", resource)), values.get(("limits", resource))
        if asked is not None and limit is not None and asked > limit:
            problems.append(
                FieldProblem(path((*at, "requests", resource)), "must not be more than the limit")
            )
        if limit == 0:
            problems.append(FieldProblem(path((*at, "limits", resource)), "must be more than 0"))
    # As in Kubernetes, a limit alone is the request too.
    found = DomainResources(
        cpu_request=values.get(("requests", "cpu"), values.get(("limits", "cpu"))),
        cpu_limit=values.get(("limits", "cpu")),
        memory_request_bytes=values.get(("requests", "memory"), values.get(("limits", "memory"))),
        memory_limit_bytes=values.get(("limits", "memory")),
    )
    try:
        found = accelerators.into(found)
    except ValueError as e:
        problems.append(FieldProblem(path(at), str(e)))
    return found, problems
