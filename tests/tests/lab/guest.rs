//! A guest that judges its own steal.

use stealtrace_tests::json_lines;

use super::Step;

pub(crate) static STEPS: &[&Step] = &[&HEALTHY, &POISONED, &STUCK];

static HEALTHY: Step = Step::once("guest", "stealtrace guest --interval 100ms --format json");

/// What the guest of the bug report saw.
static POISONED: Step = Step::once(
    "poisoned guest",
    "\
sed 's/^cpu0 .*/cpu0 5 0 5 5 0 0 0 1844674407370 0 0/' /proc/stat > /tmp/stat
mount -o bind /tmp/stat /proc/stat
stealtrace guest --interval 100ms
code=$?
umount /proc/stat
exit $code",
);

/// A guest that shows nothing but steal, as a busy one does that was poisoned: twice the time, so that a look that comes
/// late or early sees more than enough.
static STUCK: Step = Step::once(
    "stuck guest",
    "\
stat() { printf 'cpu0 5 0 5 5 0 0 0 %08d 0 0\\n' $1 | dd of=/tmp/stat conv=notrunc 2> /dev/null; }
ticks() { read up idle < /proc/uptime; echo ${up%.*}${up#*.}; }
rm -f /tmp/stat
stat 100
mount -o bind /tmp/stat /proc/stat
began=$(ticks)
while sleep 0.1; do stat $((100 + ($(ticks) - began) * 2)); done &
writer=$!
stealtrace guest
code=$?
kill $writer
wait $writer
umount /proc/stat
exit $code",
);

#[test]
fn a_guest_judges_itself() {
    let healthy = HEALTHY.alone();
    assert_eq!(healthy.code, 0, "{}{}", healthy.stdout, healthy.stderr);
    assert_eq!(json_lines(&healthy.stdout)[0]["cpus"].as_array().map(Vec::len), Some(2));
    let poisoned = POISONED.alone();
    assert_eq!(poisoned.code, 1, "{}{}", poisoned.stdout, poisoned.stderr);
    assert!(poisoned.stdout.contains("steal-poisoned: guest CPU 0 shows 584 years"), "{}", poisoned.stdout);
    let stuck = STUCK.alone();
    assert_eq!(stuck.code, 1, "{}{}", stuck.stdout, stuck.stderr);
    assert!(stuck.stdout.contains("steal-poisoned: guest CPU 0 is stuck at 100 % steal"), "{}", stuck.stdout);
}
