//! Hosts as network namespaces on one bridge, with injected packet loss.

use std::{
    ffi::OsString,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// The packets of a service that are lost on the way to or from its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PacketLoss {
    /// All packets, both ways.
    Both,
    /// Incoming packets.
    In,
    /// Outgoing packets.
    Out,
    /// Packets that open a connection.
    Opening,
}

/// Hosts and the bridge that joins them to this one. Dropping it removes them.
#[derive(Debug)]
pub(crate) struct Hosts {
    /// The prefix of every name; short, because interface names are.
    prefix: String,
    /// The first three octets of every address.
    net: [u8; 3],
    count: u8,
}

impl Hosts {
    /// Creates `count` hosts. Needs root.
    ///
    /// # Errors
    /// When a command of the system fails; the error quotes it.
    pub(crate) fn new(count: u8) -> Result<Self> {
        let pid = std::process::id();
        let [_, _, high, low] = pid.to_be_bytes();
        let mut hosts = Self { prefix: format!("ch{pid}"), net: [10, 64 + high % 64, low], count: 0 };
        let bridge = hosts.bridge();
        // An earlier testbed of this process is gone; its bridge is too.
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

    /// The command prefix that runs a program on host `n`.
    pub(crate) fn exec_prefix(&self, n: u8) -> Vec<OsString> {
        ["ip", "netns", "exec", &self.name(n)].map(OsString::from).into()
    }

    /// Starts to drop packets of the service at `port` of host `n`.
    ///
    /// # Errors
    /// When nft rejects the rules.
    pub(crate) fn start_loss(&self, n: u8, port: u16, start_loss: PacketLoss) -> Result<()> {
        let incoming = match start_loss {
            PacketLoss::Both | PacketLoss::In => format!("tcp dport {port} drop"),
            PacketLoss::Opening => format!("tcp dport {port} tcp flags & (syn | ack) == syn drop"),
            PacketLoss::Out => String::new(),
        };
        let outgoing = if matches!(start_loss, PacketLoss::Both | PacketLoss::Out) {
            format!("tcp sport {port} drop")
        } else {
            String::new()
        };
        self.load_rules(n, &format!(
            "table inet chaos {{\n chain incoming {{\n type filter hook input priority 0;\n {incoming}\n }}\n \
             chain outgoing {{\n type filter hook output priority 0;\n {outgoing}\n }}\n}}\n"
        ))
    }

    /// Stops dropping packets of host `n`.
    ///
    /// # Errors
    /// When none were dropped.
    pub(crate) fn stop_loss(&self, n: u8) -> Result<()> {
        self.load_rules(n, "delete table inet chaos\n")
    }

    fn load_rules(&self, n: u8, load_rules: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(n), "nft", "-f", "-"]);
        let nft = command.stdin(Stdio::piped()).spawn();
        let mut nft = nft.context("could not start nft; `cargo xtask setup nft` installs it")?;
        // Dropped at the end of the statement: nft reads to the end.
        nft.stdin.take().context("nft without a pipe")?.write_all(load_rules.as_bytes())?;
        let ended = nft.wait()?;
        anyhow::ensure!(ended.success(), "nft rejects these rules:\n{load_rules}");
        Ok(())
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for n in 0..self.count {
            // The kernel removes the links of a namespace later, but the next
            // testbed of this process needs their names now.
            let _ = ip(&format!("link del {}", self.name(n)));
            let _ = ip(&format!("netns del {}", self.name(n)));
        }
        let _ = ip(&format!("link del {}", self.bridge()));
    }
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.context("could not start ip; `cargo xtask setup ip` installs it")?;
    if !output.status.success() {
        bail!("`ip {arguments}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
