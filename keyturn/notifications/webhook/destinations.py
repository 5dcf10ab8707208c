"""Where a webhook may be sent: nowhere that its network alone protects."""

import ipaddress

# Refused whatever the settings allow: what no receiver has, and what turns into another address on its way.
_NEVER = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host, as many systems read it
        "255.255.255.255/32",  # broadcast
        "169.254.0.0/16",  # link-local: AWS, Azure, GCP and others answer 169.254.169.254 with credentials
        "100.100.100.200/32",  # Alibaba Cloud's metadata
        "168.63.129.16/32",  # Azure's platform, from within a virtual network
        "192.88.99.0/24",  # 6to4's relays (RFC 7526)
        "192.0.0.192/32",  # Oracle Cloud's metadata
        "::/96",  # IPv4-compatible (RFC 4291 2.5.5.1, deprecated), but for loopback
        "::ffff:0:0:0/96",  # IPv4-translated (RFC 2765)
        "64:ff9b::/96",  # NAT64 (RFC 6052): an IPv4 address in disguise
        "64:ff9b:1::/48",  # NAT64 of one's own network (RFC 8215)
        "2001::/32",  # Teredo (RFC 4380)
        "2002::/16",  # 6to4 (RFC 3056)
        "fd00:ec2::/32",  # AWS's metadata over IPv6 is fd00:ec2::254
        "fd20:ce::/32",  # GCP's metadata over IPv6 is fd20:ce::254
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local (RFC 3879, deprecated)
        "ff00::/8",  # multicast
    )
)


_HANDED_OUT = ipaddress.ip_network("2000::/3")


def fault_of_target(scheme: str, address: str, *, allow_private: bool) -> str | None:
    """Return why `address` may not be asked by `scheme`; None if it may."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_loopback:
        return None
    if any(ip in network for network in _NEVER if network.version == ip.version):
        return f"the receiver's address {ip} is always refused: it leads to a cloud's metadata, or into another network"
    if scheme != "https":
        return "the receiver must use https, or http on loopback"
    # Of IPv6, only 2000::/3 is handed out (IANA, IPv6 Global Unicast Address Assignments).
    public = ip.is_global and not ip.is_multicast and (ip.version == 4 or ip in _HANDED_OUT)
    if not public and not (allow_private and ip.is_private and not ip.is_link_local):
        return f"the receiver's address {ip} is not a public one: KEYTURN_WEBHOOK_PRIVATE=allow permits private ranges"
    return None
