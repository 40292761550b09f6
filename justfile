# The vocabulary of the project. Plain cargo works without it.

# What a change must pass before it is committed.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# All tests; no set-up needed.
test:
    cargo test

# The main job: a cluster that survives killed nodes, on real input.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# Whole clusters in the deterministic simulator: one seed, or a range such as 1..500.
sim SEEDS *ARGS:
    cargo run --bin everhold-sim -- {{SEEDS}} {{ARGS}}

# Plants each known bug and shows after how many seeds the simulator finds it.
sim-planted BUGS="all":
    cargo run -p everhold-sim --features planted --bin everhold-sim -- --plant {{BUGS}}

# Faults against real processes on hosts made of network namespaces; needs root.
faults *ARGS:
    cargo build -p everhold-cli -p everhold-sim
    target/debug/everhold-faults {{ARGS}}

# What is promised while machines fail, measured; needs root. A quarter of an hour, `--short` for less.
reliability *ARGS:
    cargo build -p everhold-cli -p everhold-sim
    target/debug/everhold-reliability {{ARGS}}

# The tests of mounts that wait for a session to end (30 s); needs root and /dev/fuse.
mount-slow:
    cargo test -p everhold-cli --test mount -- --ignored

# Programs on a mount whose process is stopped at random; needs root and /dev/fuse. `just pauses --minutes 30`.
pauses *ARGS:
    cargo build -p everhold-cli
    scripts/pauses target/debug/everhold {{ARGS}}

# Two mounts, one of which is stopped now and then, against a local directory: seeds, and operations of each. Needs root
# and /dev/fuse. Hours: `just mount-model 1..500 5000`.
mount-model SEEDS="1..20" OPS="5000":
    EVERHOLD_CI=1 EVERHOLD_MODEL_SEEDS={{SEEDS}} EVERHOLD_MODEL_OPS={{OPS}} cargo test -p everhold-cli --test mount_model -- --nocapture

# pjdfstest and a short fsx on a mount; needs root and /dev/fuse. `just posix --kill` kills nodes meanwhile.
posix *ARGS: _posix-tools
    cargo build -p everhold-cli
    scripts/posix target/debug/everhold --tools target/tools {{ARGS}}

# The same with 200,000 operations of each mix and three seeds, twelve runs at once: an hour on two cores.
posix-long *ARGS: (posix "--ops" "200000" "--seeds" "3" "--jobs" "12" ARGS)

# git, cargo, rsync, SQLite, etcd and PostgreSQL on a mount; needs root, /dev/fuse and cargo's registry, and installs what is
# missing with apt-get. `just programs --kill` kills nodes meanwhile.
programs *ARGS:
    cargo build -p everhold-cli
    scripts/programs target/debug/everhold {{ARGS}}

# The measuring suite for mounts (a directory with its bench.py and report.py) on a mount and on a local directory;
# needs root, /dev/fuse, python3 and fio.
measure SUITE *ARGS:
    cargo build --release -p everhold-cli
    scripts/measure target/release/everhold {{SUITE}} {{ARGS}}

_posix-tools:
    cargo install --quiet --locked --root target/tools pjdfstest@0.2.2 fsx@0.3.2

# The table of docs/performance.md, on a temporary cluster.
bench *ARGS:
    cargo run --release -- bench --temp {{ARGS}}

# The block store alone against the disk, for the choice of its page size.
store-bench:
    cargo run --release -p everhold-store --example store_bench

docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# What CI runs.
ci:
    bash .ci/run

# Fuzzes one target (see fuzz/README.md) for so many seconds; needs a nightly toolchain.
fuzz TARGET SECONDS:
    bash fuzz/run {{SECONDS}} {{TARGET}}

# Fuzzes all targets, one after another, for so many seconds each.
fuzz-all SECONDS:
    bash fuzz/run {{SECONDS}}
