//! The table in the syntax of nft(8), for people: `herdsman render firewall`,
//! `herdsman-agent firewall --show`, logs. `nft -f` makes the same table of it.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use super::rules::{Chain, Family, Fill, Hook, Key, PRIORITY, Part, Rule, Set, TABLE, Table, counter};

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for name in counter::ALL {
            writeln!(f, "\tcounter {name} {{\n\t\tpackets 0 bytes 0\n\t}}\n")?;
        }
        for set in &self.sets {
            writeln!(f, "{set}")?;
        }
        for (i, chain) in self.chains.iter().enumerate() {
            let end = if i + 1 < self.chains.len() { "\n" } else { "" };
            write!(f, "{chain}{end}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = match self.key {
            Key::Address(Family::V4) => "ipv4_addr",
            Key::Address(Family::V6) => "ipv6_addr",
            Key::Port => "inet_service",
        };
        writeln!(f, "\tset {} {{\n\t\ttype {key}", self.name)?;
        match self.fill {
            Fill::Keys => {}
            Fill::Ranges => writeln!(f, "\t\tflags interval")?,
            Fill::Connections => writeln!(f, "\t\tsize {}\n\t\tflags dynamic", super::encode::SOURCES)?,
            Fill::Pace => writeln!(
                f,
                "\t\tsize {}\n\t\tflags dynamic,timeout\n\t\ttimeout {}s",
                super::encode::SOURCES,
                super::encode::FORGET.as_secs()
            )?,
        }
        if !self.elements.is_empty() {
            let list: Vec<String> = self.elements.iter().map(|e| self.element(e)).collect();
            writeln!(f, "\t\telements = {{ {} }}", list.join(",\n\t\t\t     "))?;
        }
        writeln!(f, "\t}}")
    }
}

impl Set {
    fn element(&self, (from, to): &(Vec<u8>, Vec<u8>)) -> String {
        let (a, b) = (self.one(from), self.one(to));
        if a == b {
            return a;
        }
        // A whole network in the form in which people wrote it.
        if let (Some(from), Some(to)) = (address(from), address(to))
            && let Some(network) = network(from, to)
        {
            return network;
        }
        format!("{a}-{b}")
    }

    fn one(&self, bytes: &[u8]) -> String {
        match (self.key, address(bytes), bytes) {
            (Key::Address(_), Some(a), _) => a.to_string(),
            (Key::Port, _, [a, b]) => u16::from_be_bytes([*a, *b]).to_string(),
            _ => String::new(),
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(four.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn network(from: IpAddr, to: IpAddr) -> Option<String> {
    let longest = if from.is_ipv4() { 32 } else { 128 };
    (0..=longest)
        .filter_map(|p| ipnet::IpNet::new(from, p).ok())
        .find(|n| n.network() == from && n.broadcast() == to)
        .map(|n| n.to_string())
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(hook) = self.hook {
            let hook = match hook {
                Hook::Input => "input",
                Hook::Forward => "forward",
                Hook::Output => "output",
            };
            writeln!(
                f,
                "\t\ttype filter hook {hook} priority filter - {}; policy accept;",
                -PRIORITY
            )?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for part in &self.parts {
            write!(text, "{part} ")?;
        }
        write!(f, "{text}comment \"{}\"", self.comment)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = |family: &Family| match family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        let protocol = |p: &u8| if *p == 17 { "udp" } else { "tcp" };
        match self {
            Self::Loopback => f.write_str("iif \"lo\""),
            Self::Reply => f.write_str("ct direction reply"),
            Self::Established => f.write_str("ct state established,related"),
            Self::Port(p, port) => write!(f, "{} dport {port}", protocol(p)),
            Self::Ports(p, set) => write!(f, "{} dport @{set}", protocol(p)),
            Self::From(family, set) => write!(f, "{} saddr @{set}", ip(family)),
            Self::To(family, set) => write!(f, "{} daddr @{set}", ip(family)),
            Self::ByRoot => f.write_str("meta skuid 0"),
            Self::TooMany(family, set, most) => {
                write!(f, "add @{set} {{ {} saddr ct count over {most} }}", ip(family))
            }
            Self::TooFast(family, set, l) => write!(
                f,
                "update @{set} {{ {} saddr limit rate over {}/second burst {} packets }}",
                ip(family),
                l.per_second,
                l.burst
            ),
            Self::AllTooFast(l) => {
                write!(f, "limit rate over {}/second burst {} packets", l.per_second, l.burst)
            }
            Self::Count(name) => write!(f, "counter name \"{name}\""),
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Reject => f.write_str("reject with icmpx admin-prohibited"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}
