"""What may be called what: names, labels and keys by Kubernetes' rules.

Each function answers None for a good value, or one sentence that says what is wrong. The sentences name no
field: a dialect puts the path in front.
"""

from __future__ import annotations

import re

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SERVICE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_ENV = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_SECRET_KEY = re.compile(r"[-._a-zA-Z0-9]+")

MAX_ANNOTATIONS_BYTES = 256 * 1024


def label_problem(name: str) -> str | None:
    """A DNS label (RFC 1123): namespaces, containers, ports."""
    if len(name) > 63:
        return f"{len(name)} characters; at most 63 are allowed"
    if _LABEL.fullmatch(name) is None:
        return (
            f"{_show(name)} is no DNS label: lower-case letters, digits and '-', "
            "beginning and ending with a letter or digit"
        )
    return None


def service_problem(name: str) -> str | None:
    """A service's name: a DNS label that begins with a letter, because it becomes part of a host name."""
    if len(name) > 63:
        return f"{len(name)} characters; at most 63 are allowed"
    if _SERVICE.fullmatch(name) is None:
        return (
            f"{_show(name)} cannot name a service: lower-case letters, digits and '-', "
            "beginning with a letter and ending with a letter or digit"
        )
    return None


def subdomain_problem(name: str) -> str | None:
    """A DNS subdomain (RFC 1123): names of most objects."""
    if len(name) > 253:
        return f"{len(name)} characters; at most 253 are allowed"
    if _SUBDOMAIN.fullmatch(name) is None:
        return (
            f"{_show(name)} is no DNS name: lower-case letters, digits, '-' and '.', "
            "each part beginning and ending with a letter or digit"
        )
    return None


def key_problem(key: str) -> str | None:
    """A label's or annotation's key: `name` or `prefix.example.com/name`."""
    prefix, slash, name = key.rpartition("/")
    if slash:
        problem = subdomain_problem(prefix)
        if problem:
            return f"the prefix of {_show(key)}: {problem}"
    if not name or len(name) > 63 or _QUALIFIED.fullmatch(name) is None:
        return (
            f"{_show(key)} is no key: 1 to 63 letters, digits, '-', '_' and '.', beginning and ending "
            "with a letter or digit, perhaps after 'prefix.example.com/'"
        )
    return None


def label_value_problem(value: str) -> str | None:
    """A label's value; may be empty."""
    if value and (len(value) > 63 or _QUALIFIED.fullmatch(value) is None):
        return (
            f"{_show(value)} is no label value: at most 63 letters, digits, '-', '_' and '.', "
            "beginning and ending with a letter or digit"
        )
    return None


def env_problem(name: str) -> str | None:
    """An environment variable's name."""
    if _ENV.fullmatch(name) is None:
        return (
            f"{_show(name)} cannot name an environment variable: letters, digits, '_', '-' and '.'"
        )
    return None


def secret_key_problem(key: str) -> str | None:
    """A key in a Secret's data."""
    if not key or len(key) > 253 or key in (".", "..") or _SECRET_KEY.fullmatch(key) is None:
        return f"{_show(key)} is no key of a Secret: letters, digits, '-', '_' and '.'"
    return None


def _show(text: str) -> str:
    return repr(text) if len(text) <= 80 else repr(text[:77] + "...")
