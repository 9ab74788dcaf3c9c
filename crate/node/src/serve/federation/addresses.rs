//! Which addresses another server may have: public ones. Anybody's name may lead to any address, so
//! that requests to others would go into the operator's own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `address` is one that anybody on the internet could reach.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// The IANA special-purpose registry, and what is for many or for nobody.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = match (a, b, c) {
        // This network, and what is reserved.
        (0 | 240..=255, ..) => true,
        // Carriers' own networks.
        (100, 64..=127, _) => true,
        // Protocol assignments, and the relay of 6to4.
        (192, 0, 0) | (192, 88, 99) => true,
        // Benchmarks.
        (198, 18..=19, _) => true,
        _ => false,
    };
    !(is_special || address.is_private() || address.is_loopback() || address.is_link_local() || address.is_documentation() || address.is_multicast())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let is_special = match address.segments() {
        [0x100, 0, 0, 0, ..] => true,
        // Documentation.
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => true,
        // Teredo and other protocol assignments.
        [0x2001, 0..=0x1ff, ..] => true,
        // Site-local.
        [0xfec0..=0xfeff, ..] => true,
        _ => false,
    };
    let is_special = is_special
        || address.is_unspecified()
        || address.is_loopback()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        || address.is_multicast();
    !is_special && embedded(address).is_none_or(is_public_v4)
}

/// The IPv4 address that is reached by an address of IPv6.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        // IPv4-mapped, and the older IPv4-compatible.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => of(high, low),
        // IPv4-translated.
        [0, 0, 0, 0, 0xffff, 0, high, low] => of(high, low),
        // NAT64, also of networks' own.
        [0x64, 0xff9b, 0..=1, _, _, _, high, low] => of(high, low),
        // 6to4.
        [0x2002, high, low, ..] => of(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_told_from_others() {
        for public in [
            "1.1.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "2a00:1450::1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::",
        ] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
        for other in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::10.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::10.0.0.1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(other.parse().expect("an address")), "{other}");
        }
    }
}
