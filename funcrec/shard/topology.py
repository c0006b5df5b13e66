"""The machines that a plan is made for: ranks in hosts, their memory, and how fast bytes move in and between them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

from funcrec.core.errors import ConfigError, fail


@dataclass(frozen=True, kw_only=True)
class Topology:
    """``ranks`` equal devices, ``per_host`` of them in each host (the last host may have fewer). All sizes in bytes,
    rates in bytes a second, times in seconds; all of one rank.

    Args:
        device: a name to print; ``"cpu"`` makes a plan for host memory.
        memory: of the device.
        copy: rate of a long copy, read plus write.
        gather: the share of ``copy`` that reads and writes of scattered rows reach.
        sector: least number of bytes that one scattered access moves.
        intra: rate, each way, at which a rank exchanges with the ranks of its host.
        inter: the same with ranks of other hosts.
        host: what the host needs to launch one step without any collective; runs beside the device.
        collective: what each further collective adds to that.

    Raises:
        ConfigError: a number that is not positive.
    """

    ranks: int
    per_host: int
    device: str
    memory: float
    copy: float
    gather: float
    sector: int
    intra: float
    inter: float
    host: float
    collective: float

    def __post_init__(self) -> None:
        for name in ("ranks", "per_host", "memory", "copy", "gather", "sector", "intra", "inter"):
            value = getattr(self, name)
            if not value > 0:
                fail(ConfigError, f"topology: {name}", got=value, expected="a positive number")
        for name in ("host", "collective"):
            if not getattr(self, name) >= 0:
                fail(ConfigError, f"topology: {name}", got=getattr(self, name), expected="seconds >= 0")

    @property
    def hosts(self) -> int:
        return -(-self.ranks // self.per_host)

    @property
    def even(self) -> bool:
        """Whether all hosts have the same number of ranks: shardings by host need that."""
        return self.hosts == 1 or self.ranks % self.per_host == 0

    @property
    def local(self) -> int:
        """Ranks of a full host."""
        return min(self.per_host, self.ranks)

    @property
    def ring(self) -> float:
        """Rate of a reduce-scatter or an all-gather over all ranks.

        A ring crosses each host boundary once, and as many rings as there are ranks in a host share the crossing: so
        the network is ``local`` times as fast as for one rank alone.
        """
        return self.intra if self.hosts == 1 else min(self.intra, self.local * self.inter)

    @property
    def cuda(self) -> bool:
        return self.device != "cpu"

    def __str__(self) -> str:
        hosts = f"{self.hosts} host{'s' if self.hosts > 1 else ''}"
        return f"{self.ranks} x {self.device} ({hosts}, {self.memory / 1e9:.4g} GB a rank)"


# Measured: the copy rates of H200 and H100; the share that scattered rows reach (26 tables of 1M x 128, batch 65536,
# forward and backward of FBGEMM); an all-to-all of two H100s over NVLink 4; host and collective times (captured DLRM
# steps of 16384 rows on 1 and 2 H100s; torchrec's own steps need 6 and 0.7 ms). Assumed: a network card of 400 Gb/s a
# GPU, everything of the CPU but its copy rate.
_NVLINK = {"sector": 32, "intra": 276e9, "inter": 50e9, "host": 3.3e-3, "collective": 0.3e-3}
_DEVICES: dict[str, dict[str, Any]] = {
    "H200": {"memory": 141e9, "copy": 4.27e12, "gather": 0.45, **_NVLINK},
    "H100": {"memory": 80e9, "copy": 3.0e12, "gather": 0.69, **_NVLINK},
    "cpu": {
        "memory": 32e9, "copy": 32e9, "gather": 0.25, "sector": 64,
        "intra": 4e9, "inter": 1e9, "host": 2e-3, "collective": 1e-3,
    },
}  # fmt: skip
_FORM = re.compile(r"(?:(\d+)\s*x\s*)?(\d+)\s*x\s*([A-Za-z]\w*)")


def parse_topology(text: str, **overrides: float) -> Topology:
    """``"128xH200"`` (hosts of 8), ``"16x4xH100"`` (16 hosts of 4) or ``"2xcpu"`` (processes of one host).

    ==========================  =============================  ==============================  ===================
    constant                    H200                           H100                            cpu
    ==========================  =============================  ==============================  ===================
    memory                      141 GB                         80 GB                           32 GB (assumed)
    copy                        4.27 TB/s (measured)           3.0 TB/s (measured)             32 GB/s (measured)
    gather                      0.45 (measured)                0.69 (measured)                 0.25 (assumed)
    sector                      32 B                           32 B                            64 B
    intra                       276 GB/s (the H100's)          276 GB/s (measured)             4 GB/s (assumed)
    inter                       50 GB/s (assumed)              50 GB/s (assumed)               1 GB/s (assumed)
    host                        3.3 ms (the H100's)            3.3 ms (measured)               2 ms (assumed)
    collective                  0.3 ms (the H100's)            0.3 ms (measured)               1 ms (assumed)
    ==========================  =============================  ==============================  ===================

    Args:
        overrides: other values for fields of :class:`Topology`: ``inter=25e9``, ``per_host=4``.

    Raises:
        ConfigError: a text of another form, an unknown device or field.

    >>> t = parse_topology("128xH200", inter=25e9)
    >>> t.hosts, t.local, t.inter
    (16, 8, 25000000000.0)
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        fail(ConfigError, "topology", got=repr(text), expected="'128xH200', '16x8xH200' or '2xcpu'")
    hosts, count, name = found.groups()
    device = next((d for d in _DEVICES if d.lower() == name.lower()), None)
    if device is None:
        fix = "make a Topology of its own numbers for another device"
        fail(ConfigError, f"topology {text!r}: device", got=repr(name), expected=f"one of {list(_DEVICES)}", fix=fix)
    unknown = sorted(set(overrides) - set(get_type_hints(Topology)))
    if unknown:
        fail(ConfigError, "topology: fields", got=unknown, expected=f"among {sorted(get_type_hints(Topology))}")
    ranks = int(hosts or 1) * int(count)
    per_host = int(count) if hosts or device == "cpu" else 8
    if ranks < 1:
        fail(ConfigError, f"topology {text!r}: ranks", got=ranks, expected="at least one")
    made = Topology(ranks=ranks, per_host=per_host, device=device, **_DEVICES[device])
    return replace(made, **overrides)  # type: ignore[arg-type]  # integers and floats, checked above


def as_topology(topology: Topology | str) -> Topology:
    """The topology itself, or the one that a text describes."""
    return parse_topology(topology) if isinstance(topology, str) else topology
