# Starts PgBouncer on the loopback port $1 in front of the PostgreSQL server whose
# socket is in the folder $2, with the settings $3 in a folder of its own $4, says
# `ready`, and ends it when standard input ends. PGBOUNCER_BIN names another one.
port=$1
server=$2
settings=$3
folder=$4
PATH=$PATH:/usr/sbin

fail() {
    echo "$1"
    [ -f "$folder/log" ] && cat "$folder/log"
    cd /
    rm -rf "$folder"
    exit 1
}

program=$(command -v "${PGBOUNCER_BIN:-pgbouncer}") || fail "there is no pgbouncer; run \`cargo xtask setup\`"
cat >"$folder/ini" <<INI
[databases]
* = host=$server user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = any
$settings
INI

as=
if [ "$(id -u)" = 0 ]; then
    # It refuses to be root.
    user=postgres
    id "$user" >/dev/null 2>&1 || user=nobody
    chown -R "$user" "$folder" || fail "could not give $folder to $user"
    as="setpriv --reuid=$user --regid=$(id -g "$user") --clear-groups"
fi
$as "$program" "$folder/ini" >"$folder/log" 2>&1 &
pooler=$!

tries=0
until grep -q "process up" "$folder/log"; do
    kill -0 "$pooler" 2>/dev/null || fail "the pooler ended:"
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || { kill -KILL "$pooler"; fail "the pooler was not ready after 30 s:"; }
    sleep 0.05
done
echo ready
# Nobody reads from here on.
exec >/dev/null 2>&1

read -r _
kill -KILL "$pooler"
wait "$pooler"
cd /
rm -rf "$folder"
