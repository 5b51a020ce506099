//! Hosts, as network namespaces on one bridge, between which packets can be
//! lost.

use std::{
    ffi::OsString,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Which packets of a service are lost on the way to or from its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// All, both ways.
    Both,
    /// What comes in.
    In,
    /// What goes out.
    Out,
    /// What opens a connection.
    Opening,
}

/// Some hosts and the bridge that joins them to this one. Dropping it removes
/// them.
#[derive(Debug)]
pub(crate) struct Hosts {
    /// What every name begins with: short, for an interface's name is.
    prefix: String,
    /// The first three numbers of every address.
    net: [u8; 3],
    count: u8,
}

impl Hosts {
    /// Makes `count` hosts. Needs root.
    ///
    /// # Errors
    /// When the system does not let us; says what was asked of it.
    pub(crate) fn new(count: u8) -> Result<Self> {
        let pid = std::process::id();
        let [_, _, high, low] = pid.to_be_bytes();
        let mut hosts = Self { prefix: format!("ch{pid}"), net: [10, 64 + high % 64, low], count: 0 };
        let bridge = hosts.bridge();
        // An earlier bed of this process is gone; its bridge is too.
        ip(&format!("link add {bridge} type bridge")).context("namespaces need root")?;
        ip(&format!("addr add {}/24 dev {bridge}", hosts.gateway()))?;
        ip(&format!("link set {bridge} up"))?;
        for n in 0..count {
            hosts.count = n + 1;
            hosts.add(n)?;
        }
        Ok(hosts)
    }

    fn add(&self, n: u8) -> Result<()> {
        let (name, bridge, address) = (self.name(n), self.bridge(), self.address(n));
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {name} type veth peer name eth0 netns {name}"))?;
        ip(&format!("link set {name} master {bridge} up"))?;
        ip(&format!("-n {name} addr add {address}/24 dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} link set lo up"))
    }

    fn bridge(&self) -> String {
        format!("{}b", self.prefix)
    }

    fn name(&self, n: u8) -> String {
        format!("{}h{n}", self.prefix)
    }

    /// The address of this host, which all others reach.
    pub(crate) fn gateway(&self) -> IpAddr {
        let [a, b, c] = self.net;
        Ipv4Addr::new(a, b, c, 1).into()
    }

    /// The address of host `n`, counted from 0.
    pub(crate) fn address(&self, n: u8) -> IpAddr {
        let [a, b, c] = self.net;
        Ipv4Addr::new(a, b, c, 10 + n).into()
    }

    /// The words that run what follows them on host `n`.
    pub(crate) fn on(&self, n: u8) -> Vec<OsString> {
        ["ip", "netns", "exec", &self.name(n)].map(OsString::from).into()
    }

    /// Loses packets of the service at `port` of host `n`.
    ///
    /// # Errors
    /// When the system does not let us.
    pub(crate) fn cut(&self, n: u8, port: u16, cut: Cut) -> Result<()> {
        let incoming = match cut {
            Cut::Both | Cut::In => format!("tcp dport {port} drop"),
            Cut::Opening => format!("tcp dport {port} tcp flags & (syn | ack) == syn drop"),
            Cut::Out => String::new(),
        };
        let outgoing = if matches!(cut, Cut::Both | Cut::Out) {
            format!("tcp sport {port} drop")
        } else {
            String::new()
        };
        self.rules(n, &format!(
            "table inet chaos {{\n chain incoming {{\n type filter hook input priority 0;\n {incoming}\n }}\n \
             chain outgoing {{\n type filter hook output priority 0;\n {outgoing}\n }}\n}}\n"
        ))
    }

    /// Loses no more packets of host `n`.
    ///
    /// # Errors
    /// When none were lost.
    pub(crate) fn heal(&self, n: u8) -> Result<()> {
        self.rules(n, "delete table inet chaos\n")
    }

    fn rules(&self, n: u8, rules: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(n), "nft", "-f", "-"]);
        let nft = command.stdin(Stdio::piped()).spawn();
        let mut nft = nft.context("could not start nft; `cargo xtask setup nft` installs it")?;
        // Dropped at the end of the statement: nft reads to the end.
        nft.stdin.take().context("nft without a pipe")?.write_all(rules.as_bytes())?;
        let ended = nft.wait()?;
        anyhow::ensure!(ended.success(), "nft does not take these rules:\n{rules}");
        Ok(())
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for n in 0..self.count {
            // With a namespace goes all that is in it, but later: the next bed
            // of this process must find the name of the link free.
            let _ = ip(&format!("link del {}", self.name(n)));
            let _ = ip(&format!("netns del {}", self.name(n)));
        }
        let _ = ip(&format!("link del {}", self.bridge()));
    }
}

fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output();
    let output = output.context("could not start ip; `cargo xtask setup ip` installs it")?;
    if !output.status.success() {
        bail!("`ip {words}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
