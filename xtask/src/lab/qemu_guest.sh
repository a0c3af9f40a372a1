# Prints lines of a word and what was seen. Exit 1: a step did not come to its end.

# Wait until a file has this line so often.
until_seen() {
    for second in $(seq 240); do
        [ "$(grep -c "$2" $1)" -ge ${3:-1} ] && return
        sleep 1
    done
    echo "stuck $1 has no $2"
    tail -n 5 /tmp/console /tmp/monitor /tmp/qemu
    exit 1
}

start() {
    rm -f /tmp/m.in /tmp/m.out
    mkfifo /tmp/m.in /tmp/m.out
    : > /tmp/console
    : > /tmp/monitor
    cat /tmp/m.out > /tmp/monitor &
    exec 3<> /tmp/m.in
    qemu-system-x86_64 -L /q -accel kvm -cpu host -machine pc -m 256 -nodefaults -display none -vga none \
        -name guest=lab,debug-threads=on -smp 1,sockets=2,cores=1,threads=1,maxcpus=2 \
        -device host-x86_64-cpu,id=second,socket-id=1,core-id=0,thread-id=0 \
        -kernel /q/vmlinuz -initrd /q/guest.cpio -append "console=ttyS0 quiet panic=-1 mitigations=off" \
        -serial file:/tmp/console -monitor pipe:/tmp/m "$@" > /tmp/qemu 2>&1 &
    qemu=$!
}

monitor() { echo "$1" >&3; sleep ${2:-1}; }

# Ask the monitor until it says so.
until_told() {
    : > /tmp/monitor
    for second in $(seq 120); do
        monitor "$1"
        grep -q "$2" /tmp/monitor && return
    done
    echo "stuck $1 never says $2"
    tail -n 5 /tmp/monitor /tmp/qemu
    exit 1
}

# What inspect says of a guest that stands still, and what QEMU's monitor reads at the same addresses.
compare() {
    monitor stop
    echo "inspect-$1 $(stealtrace inspect --wait 100ms --format json)" > /tmp/look
    cat /tmp/look
    for address in $(grep -o '"area_guest_address":[0-9]*' /tmp/look | cut -d: -f2); do
        : > /tmp/monitor
        monitor "xp /4xw $address"
        echo "xp-$1 $address $(tr -d '\r' < /tmp/monitor | grep -o '^[0-9a-f]*: 0x.*' | tail -n 1)"
    done
    monitor cont
}

trace() {
    : > /tmp/says
    stealtrace trace --findings-only --format json > /tmp/trace 2> /tmp/says &
    tracer=$!
    until_seen /tmp/says tracing
}

end_trace() {
    kill -INT $tracer
    wait $tracer
    echo "code-$1 $?"
    sed "s/^/trace-$1 /" /tmp/trace
}

trace
start
until_seen /tmp/console "cpus 2"
for busy in 1 2 3; do (while :; do :; done) & done
sleep 5
compare running
end_trace life
monitor stop
monitor "migrate \"exec:cat > /tmp/state\""
until_told "info migrate" "status: completed"
monitor quit
wait $qemu
echo "saved $(wc -c < /tmp/state)"
exit 0
