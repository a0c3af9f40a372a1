# A Linux guest's life under Debian's QEMU, as its own monitor, stealtrace and the guest see it.
# Exit 1: they do not agree. Exit 3: the guest rebooted by itself.
# A step that does not come to its end is the lab's to notice: nothing is written to /tmp any more. What is written all
# the time, whether the guest goes on or not, goes to /report: it is shown then, and is no progress.

code=0
mkdir /report

# step WHAT: what the lab says of a hang, and of what takes long.
step() { echo "step $1" > /dev/ttyS3; }

# Wait until a file has this so often.
until_seen() { until [ "$(grep -c "$2" $1)" -ge ${3:-1} ]; do sleep 0.2; done; }

# Wait until a file has this once more than now.
next_seen() { until_seen $1 "$2" $(($(grep -c "$2" $1) + 1)); }

# What QEMU is told once, for both of its lives.
start() {
    rm -f /tmp/m.in /tmp/m.out
    mkfifo /tmp/m.in /tmp/m.out
    : > /report/monitor
    cat /tmp/m.out >> /report/monitor &
    exec 3<> /tmp/m.in
    qemu-system-x86_64 -L /q -accel kvm -cpu host -machine pc -m 256 -nodefaults -display none -vga none \
        -name guest=lab,debug-threads=on -smp 1,sockets=2,cores=1,threads=1,maxcpus=2 -device $SECOND \
        -kernel /q/vmlinuz -initrd /q/guest.cpio -append "console=ttyS0 loglevel=0 panic=-1 mitigations=off" \
        -chardev file,id=console,path=/tmp/console,append=on -serial chardev:console \
        -monitor pipe:/tmp/m "$@" > /report/qemu 2>&1 &
    qemu=$!
    until_seen /report/monitor "$PROMPT"
}

SECOND=host-x86_64-cpu,id=second,socket-id=1,core-id=0,thread-id=0

PROMPT="(qemu) "

# Done when the monitor waits for the next command.
monitor() {
    : > /report/monitor
    echo "$1" >&3
    until_seen /report/monitor "$PROMPT"
}

# What the monitor answers.
ask() {
    monitor "$1"
    tr -d '\r' < /report/monitor
}

# Ask the monitor until it says so.
until_told() { until ask "$1" | grep -q "$2"; do sleep 0.2; done; }

# begin NAME: from here on this part of the guest's life is watched.
begin() {
    echo "== $1"
    part=$1
    step "$part"
    : > /tmp/says
    stealtrace trace --findings-only --ns --min-severity warning > /tmp/findings 2> /tmp/says &
    watcher=$!
    until_seen /tmp/says tracing
}

# end: a guest that stands still, as everybody sees it; then what was found since it began.
end() {
    step "$part: what everybody says of it"
    : > /tmp/says
    stealtrace trace --format json > /report/events 2> /tmp/says &
    tracer=$!
    until_seen /tmp/says tracing
    next_seen /tmp/console "^beat.*exits with [0-9]"
    monitor stop
    kill -INT $tracer
    wait $tracer
    stealtrace inspect --wait 100ms --format json | tr '{' '\n' | grep '"vcpu_id"' > /tmp/vcpus
    ! grep '"msr":0,' /tmp/vcpus || rebooted
    ask "info cpus" > /tmp/threads
    tr -d '\r' < /tmp/console | awk '{ said = said $0 "\n" } /^beat/ { last = said; said = "" } END { printf last }' > /tmp/own
    for vcpu in 0 1; do compare $vcpu; done
    stealtrace inspect --wait 100ms
    monitor cont
    kill -INT $watcher
    wait $watcher
    watched=$?
    cat /tmp/findings
    echo "stealtrace trace exits with $watched"
    cat /tmp/own
    [ $(wc -l < /tmp/vcpus) = 2 ] || differs "inspect sees $(wc -l < /tmp/vcpus) vCPUs"
}

rebooted() {
    echo "the guest is in its firmware: it rebooted by itself"
    tail -n 60 /tmp/console /report/*
    exit 3
} >&2

reset() {
    monitor system_reset
    next_seen /tmp/console "guest up"
    next_seen /tmp/console "cpus 2"
}

replug() {
    step "$part: device_del"
    monitor "device_del second"
    next_seen /tmp/console "cpus 1"
    step "$part: device_add"
    monitor "device_add $SECOND"
    next_seen /tmp/console "cpus 2"
}

differs() {
    echo "DIFFERS: $1"
    code=1
}

# compare VCPU: QEMU's monitor against everybody else.
compare() {
    vcpu=$1
    grep "\"vcpu_id\":$vcpu," /tmp/vcpus > /tmp/vcpu
    grep '"type":"update"' /report/events | grep "\"vcpu_id\":$vcpu," | tail -n 1 > /tmp/update
    thread=$(sed -n "s/.*CPU #$vcpu: thread_id=\([0-9]*\).*/\1/p" /tmp/threads)
    set -- $(ask "xp /4xw $(numbers vcpu area_guest_address)" | sed -n 's/^[0-9a-f]*: \(0x.*\)/\1/p')
    [ $# = 4 ] || { differs "vCPU $vcpu: xp says '$*'"; return; }
    expected="$thread $(printf %u $(($2 << 32 | $1))) $(($3))"
    set -- $expected
    echo "vCPU $vcpu in QEMU's monitor: thread $1, steal $2 ns, version $3"
    same inspect "$(numbers vcpu runner_tid steal_ns version)" \
        " ($(grep -o '"judgement":"[^"]*"' /tmp/vcpu | cut -d'"' -f4))"
    for name in '"vm_name":"lab"' "\"runner\":\"CPU $vcpu/KVM\""; do
        grep -qF "$name" /tmp/vcpu || differs "inspect lacks $name"
    done
    same trace "$(numbers update caller_tid steal_after_ns version_after)"
    expected=$(printf %#x $(numbers vcpu msr))
    same "the guest's own MSR" "$(grep "^[^ ]* $vcpu " /tmp/own | grep -o '0x[0-9a-f]*: enabled' | cut -d: -f1)"
}

# same WHO WHAT [REMARK]
same() { [ "$2" = "$expected" ] && echo "    $1: the same$3" || differs "$1: $2"; }

# numbers FILE FIELD...: of a JSON object.
numbers() {
    file=$1
    shift
    echo $(for field in "$@"; do grep -o "\"$field\":[0-9]*" /tmp/$file | cut -d: -f2; done)
}

begin "boots and runs beside a busy host"
: > /tmp/console
start
until_seen /tmp/console "cpus 2"
(while :; do :; done) &
end

begin "is saved to a file and restored by another QEMU"
monitor stop
monitor "migrate \"exec:cat > /tmp/state\""
until_told "info migrate" "status: completed"
echo quit >&3
wait $qemu
start -incoming "exec:cat /tmp/state"
until_told "info status" "paused$"
monitor cont
end

begin "is reset"
reset
end

begin "loses a CPU and gets it again"
replug
end

begin "is reset again"
reset
end

begin "loses a CPU and gets it again, guarded"
stealtrace guard --yes > /tmp/guard 2> /tmp/says &
guard=$!
until_seen /tmp/says guarding
replug
kill -INT $guard
wait $guard
cat /tmp/guard
end
exit $code
