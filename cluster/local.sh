#!/usr/bin/env bash
# A one-machine Ray cluster for `ray job submit`: token authentication, every port on the loopback.
#
#   cluster/local.sh start | stop | status         PORT=6379 DASHBOARD_PORT=8265 choose the ports
#
# `ray stop` ends every Ray of the machine. This ends the processes that carry the mark of its own start in their
# environment, and no others, so that it can run beside other clusters (Linux: it reads /proc).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
port=${PORT:-6379}
state=/tmp/ensemble-cluster-$(id -u)-$port  # short: Ray's socket paths may have 107 characters
dashboard_port=${DASHBOARD_PORT:-8265}
if [[ -O $state/dashboard_port && ${1:-} != start ]]; then dashboard_port=$(cat "$state/dashboard_port"); fi
token_file=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
address=http://127.0.0.1:$dashboard_port

if [[ -e $state && ! -O $state ]]; then
    echo "cluster/local.sh: $state belongs to somebody else" >&2
    exit 1
fi

fail() {
    echo "cluster/local.sh: $*" >&2
    exit 1
}

if [[ ! -d /proc/self ]]; then fail "needs Linux, whose /proc says which processes are its own"; fi

prepare_token() {
    if [[ -n ${RAY_AUTH_TOKEN:-} ]]; then return; fi  # Ray prefers it to any file
    (umask 077 && mkdir -p "$(dirname "$token_file")")
    if [[ ! -s $token_file ]]; then  # as `ray get-auth-token --generate` makes it, which writes it readable to all
        (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$token_file")
        echo "Wrote a new token to $token_file"
    fi
    if [[ $(stat -c %a "$token_file") != 600 ]]; then
        chmod 600 "$token_file"
        echo "Closed $token_file to others (mode 0600)"
    fi
}

marked() {  # the process ids of this cluster, whatever session or group they moved to
    local environ mark
    mark=ENSEMBLE_CLUSTER=$(cat "$state/mark")
    for environ in /proc/[0-9]*/environ; do
        if grep -qzxF "$mark" "$environ" 2>/dev/null; then basename "$(dirname "$environ")"; fi
    done
}

answers() {
    curl --silent --output /dev/null --max-time 2 "$address/api/version"
}

start() {
    PATH=$root/.venv/bin:$PATH  # jobs find `ensemble` and `python` as well
    command -v ray >/dev/null || fail "no ray: run \`make setup\` first"
    command -v curl >/dev/null || fail "no curl"
    if [[ -f $state/mark && -n $(marked) ]]; then fail "running already at $address; end it with: $0 stop"; fi
    if answers; then fail "something else answers at $address; choose another DASHBOARD_PORT"; fi
    prepare_token
    rm -rf "$state"
    # Ray opens its own directories to all; this one around them is closed. No umask is set: jobs would inherit it, and
    # their results would be closed to others too.
    mkdir -m 700 "$state"
    head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$state/mark"
    # Ray binds to every interface unless its node lives on the loopback, which on Linux this variable (made for
    # Windows and macOS) brings about; --node-ip-address=127.0.0.1 is replaced by the outer address.
    # SPT_NOENV keeps the process titles from overwriting the mark.
    echo "$dashboard_port" >"$state/dashboard_port"
    ENSEMBLE_CLUSTER=$(cat "$state/mark") SPT_NOENV=1 RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 RAY_AUTH_MODE=token \
        RAY_AUTH_TOKEN_PATH=$token_file \
        setsid ray start --head --block --port="$port" --ray-client-server-port=$((port + 1)) \
        --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$dashboard_port" \
        --dashboard-agent-listen-port=$((port + 2)) --temp-dir="$state/ray" --disable-usage-stats \
        ${RAY_START_ARGS:-} >"$state/log" 2>&1 </dev/null &
    echo $! >"$state/pid"
    for _ in $(seq 120); do
        if answers && grep -q 'Ray runtime started' "$state/log"; then
            echo "Ray runs on this machine only, with token authentication; its dashboard is $address"
            echo "Submit with:"
            echo "  ADDRESS=$address $(printf %q "$root/cluster/submit.sh") -- \\"
            echo "      python -m ensemble tune --space quickstart.yaml --results $(printf %q "$PWD/results")"
            echo "or join it with: --address 127.0.0.1:$port"
            echo "End it with: PORT=$port $(printf %q "$0") stop"
            return
        fi
        if [[ -z $(marked) ]]; then break; fi
        sleep 0.5
    done
    tail -n 20 "$state/log" >&2
    stop >/dev/null
    fail "Ray did not start; see above"
}

# Sends a signal to every process of the cluster and waits, at most as many half seconds as said, until none is left.
end() {
    local signal=$1 patience=$2 left
    for ((; patience > 0; patience--)); do
        left=$(marked)
        if [[ -z $left ]]; then return; fi
        # shellcheck disable=SC2086
        if [[ -n $signal ]]; then kill -s "$signal" $left 2>/dev/null || true; fi
        signal=
        sleep 0.5
    done
    [[ -z $(marked) ]]
}

stop() {
    [[ -f $state/mark ]] || fail "no cluster was started here with PORT=$port"
    local head
    head=$(cat "$state/pid")
    if marked | grep -qx "$head"; then kill -TERM "$head" || true; fi  # it ends its own first
    end '' 10 || end TERM 6 || end KILL 20 || fail "these processes do not end: $(marked | tr '\n' ' ')"
    rm -rf "$state"
    echo "Stopped the cluster of port $port"
}

# Every cluster that was started here, or the one of a given PORT.
status() {
    local ran=
    for state in ${PORT:+"$state"} $([[ -n ${PORT:-} ]] || ls -d /tmp/ensemble-cluster-"$(id -u)"-* 2>/dev/null); do
        if [[ -O $state/mark && -n $(marked) ]]; then
            ran=yes
            echo "running at http://127.0.0.1:$(cat "$state/dashboard_port"), --address 127.0.0.1:${state##*-}"
        fi
    done
    if [[ -z $ran ]]; then
        echo "not running${PORT:+ (PORT=$port)}"
        return 1
    fi
}

case ${1:-} in
start | stop | status) "$1" ;;
*) fail "usage: $0 start | stop | status" ;;
esac
