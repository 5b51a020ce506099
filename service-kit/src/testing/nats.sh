# Starts a NATS server with JetStream on the loopback port $1 with its data in
# the folder $2, says `ready`, and kills it on request or when standard
# input ends; then the folder goes too.
port=$1
folder=$2
# Where `cargo xtask setup` keeps what it builds.
PATH=$PATH:${CONSORT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/consort/tools}/bin

fail() {
    echo "$1"
    [ -f "$folder/log" ] && cat "$folder/log"
    exit 1
}

command -v nats-server >/dev/null || fail "there is no nats-server; run \`cargo xtask setup\`"
nats-server -a 127.0.0.1 -p "$port" -js -sd "$folder/data" >"$folder/log" 2>&1 &
server=$!

tries=0
until grep -q "Server is ready" "$folder/log"; do
    kill -0 "$server" 2>/dev/null || fail "the server ended:"
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || { kill -KILL "$server"; fail "the server was not ready after 30 s:"; }
    sleep 0.05
done
echo ready
# Nobody reads from here on.
exec >/dev/null 2>&1

read -r command
kill -KILL "$server"
wait "$server"
[ -n "$command" ] || rm -rf "$folder"
