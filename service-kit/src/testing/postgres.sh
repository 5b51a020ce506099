# Starts a PostgreSQL server in the folder $1, says `ready`, and ends it when
# standard input ends. With `on` as $2 its commits are durable. With a server's
# folder as $3 it is a standby that follows that server.
folder=$1
sync=${2:-off}
primary=$3
# Debian keeps the server off PATH, one folder per version, the newest first.
for bin in $(ls -dr /usr/lib/postgresql/*/bin 2>/dev/null); do PATH=$PATH:$bin; done

clean_up() {
    cd /
    rm -rf "$folder"
}
fail() {
    echo "$1"
    [ -f "$folder/log" ] && cat "$folder/log"
    clean_up
    exit 1
}

for program in initdb postgres; do
    command -v "$program" >/dev/null || fail "there is no $program; run \`cargo xtask setup\`"
done

as=
if [ "$(id -u)" = 0 ]; then
    # The server refuses to be root.
    user=postgres
    id "$user" >/dev/null 2>&1 || user=nobody
    chown "$user" "$folder" || fail "could not give $folder to $user"
    as="setpriv --reuid=$user --regid=$(id -g "$user") --clear-groups"
fi
cd "$folder" || fail "could not enter $folder"
: >log

# Making an empty server takes seconds of work and is the same each time: the
# first is kept, and copied. The name changes with whatever is made otherwise.
kept=${XDG_CACHE_HOME:-$HOME/.cache}/consort/$(postgres --version | tr -c '[:alnum:].\n' -)-for-tests-1
if [ -n "$primary" ]; then
    $as "$(command -v pg_basebackup)" -h "$primary" -U postgres -D data -R -X stream -c fast --no-sync >log 2>&1 ||
        fail "pg_basebackup failed:"
elif ! cp -R "$kept" data 2>/dev/null; then
    rm -rf data
    $as "$(command -v initdb)" -D data -U postgres -A trust -E UTF8 --no-locale --no-sync --wal-segsize=1 >log 2>&1 ||
        fail "initdb failed:"
    # Whole or not at all; where it cannot be kept, or another was faster, it
    # is not.
    new=$kept.$$
    mkdir -p "${kept%/*}" 2>/dev/null && cp -R data "$new" 2>/dev/null && mv -T "$new" "$kept" 2>/dev/null
    rm -rf "$new"
fi
[ -z "$as" ] || chown -R "$user" data || fail "could not give $folder to $user"
chmod 700 data

$as "$(command -v postgres)" -D data -k "$folder" -c listen_addresses= -c fsync=$sync -c full_page_writes=$sync \
    -c max_connections=100 >>log 2>&1 &
server=$!

tries=0
until grep -Eq "ready to accept (read-only )?connections" log; do
    kill -0 "$server" 2>/dev/null || fail "the server ended:"
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || { kill -QUIT "$server"; fail "the server was not ready after 30 s:"; }
    sleep 0.05
done
echo ready
# Nobody reads from here on.
exec >/dev/null 2>&1

read -r _
kill -QUIT "$server"
wait "$server"
clean_up
