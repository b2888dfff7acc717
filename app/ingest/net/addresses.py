"""Which network addresses the service may reach on a stranger's behalf.

`ipaddress` alone calls several inward addresses global (NAT64, 6to4 and IPv4-compatible forms of
127.0.0.1, multicast), so every disguise is taken off first and each face judged by itself.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

IPAddress = IPv4Address | IPv6Address

_REFUSED = tuple(
    ip_network(network)
    for network in (
        "100.64.0.0/10",  # carrier-grade NAT
        "192.0.0.0/24",  # protocol assignments
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",  # benchmarks
        "240.0.0.0/4",
        "64:ff9b:1::/48",  # NAT64 for local use
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
)
# Networks whose last 32 bits are an IPv4 address: compatible, translated, NAT64.
_IPV4_AT_THE_END = tuple(
    IPv6Network(network) for network in ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96")
)
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


def is_public(address: str) -> bool:
    """Whether the address, in all its disguises, is one of the public internet's."""
    return all(_is_public_face(face) for face in _faces(ip_address(address)))


def _is_public_face(address: IPAddress) -> bool:
    inward = (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
    )
    listed = any(address in network for network in _REFUSED if network.version == address.version)
    return address.is_global and not inward and not listed


def _faces(address: IPAddress) -> Iterator[IPAddress]:
    """Yield every address that this one stands for: what it embeds, or else itself."""
    embedded = list(_embedded(address)) if isinstance(address, IPv6Address) else []
    for face in embedded:
        yield from _faces(face)
    if not embedded:
        yield address


def _embedded(address: IPv6Address) -> Iterator[IPAddress]:
    value = int(address)
    if address.ipv4_mapped:
        yield address.ipv4_mapped
    elif address.sixtofour:
        yield address.sixtofour
    elif address.teredo:
        yield from address.teredo
    elif any(address in network for network in _IPV4_AT_THE_END):
        yield IPv4Address(value & 0xFFFFFFFF)
    elif (value >> 32) & 0xFFFFFFFF in _ISATAP:
        yield IPv4Address(value & 0xFFFFFFFF)
        yield IPv6Address(value >> 64 << 64)
