package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/warrennet/warren/internal/model"
	"golang.org/x/sys/unix"
)

// lastLocalPref is the preference of a second rule for table local, after all other rules. systemd-networkd deletes rules
// that it did not configure, except for those of protocol kernel. If a program deletes the first rule, the node's own
// addresses stay reachable.
const lastLocalPref = 32765

// probePref is the preference of the rule that probe adds for a moment.
const probePref = 32764

// moveLocal moves the rule of table local to pref, or back to 0. The new rule is added before the old one is removed, and
// both have protocol kernel.
func (s *setter) moveLocal(pref int) {
	want := []int{0}
	if pref != 0 {
		want = []int{pref, lastLocalPref}
	}
	for _, f := range model.Families {
		if !s.moveLocalOf(f, want) {
			return
		}
	}
}

// moveLocalOf makes the rules of table local of one family be those at the wanted preferences. After a failed addition it
// removes nothing and returns false: without any rule the node's own addresses are unreachable.
func (s *setter) moveLocalOf(f model.Family, want []int) (ok bool) {
	rules, err := dump(func() ([]netlink.Rule, error) { return netlink.RuleList(f.AF()) })
	if err != nil {
		s.fail("list rules: %w", err)
		return false
	}
	has := func(pref int) bool {
		return slices.ContainsFunc(rules, func(r netlink.Rule) bool { return isLocal(r) && r.Priority == pref })
	}
	if want[0] != 0 && !has(want[0]) {
		// Only before the move: the probe changes the rules for a moment, which would trigger another Set (Watch).
		if err := probe(f); err != nil {
			s.fail("move the rule of table local: %w", err)
			return false
		}
	}
	failed := len(s.errs)
	for _, pref := range want {
		if !has(pref) {
			s.did("add", "rule "+localName(f, pref), netlink.RuleAdd(localRule(f, pref)))
		}
	}
	if len(s.errs) > failed {
		return false
	}
	for _, r := range rules {
		if isLocal(r) && !slices.Contains(want, r.Priority) {
			r.Family = f.AF()
			s.did("remove", "rule "+localName(f, r.Priority), ignoreMissing(netlink.RuleDel(&r)))
		}
	}
	return true
}

// isLocal reports whether a rule looks up table local for every packet: the kernel's rule, warren's copies of it, and a
// rule that another program added at preference 0, which would undo the move. Other rules for that table match fewer
// packets or have another preference and protocol.
func isLocal(r netlink.Rule) bool {
	return r.Table == unix.RT_TABLE_LOCAL && (r.Protocol == unix.RTPROT_KERNEL || r.Priority == 0) &&
		r.Src == nil && r.Dst == nil && r.IifName == "" && r.OifName == ""
}

func localRule(f model.Family, pref int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Protocol = f.AF(), pref, unix.RT_TABLE_LOCAL, unix.RTPROT_KERNEL
	return r
}

func localName(f model.Family, pref int) string {
	return Rule{Family: f, Pref: pref, Table: unix.RT_TABLE_LOCAL}.String()
}

// ErrOldKernel means that the kernel ignores protocols and ports in rules, so every packet would be redirected.
var ErrOldKernel = errors.New("the kernel ignores ipproto and ports in policy rules; Services need Linux 4.19 or newer")

// probe adds a rule with protocol and ports on a documentation address (RFC 5737, RFC 3849), reads it back and removes it.
// An old kernel accepts such a rule and ignores the ports.
func probe(f model.Family) error {
	want := Rule{Pref: probePref, Family: f, From: netip.MustParsePrefix("192.0.2.1/32"), Proto: unix.IPPROTO_TCP,
		Dport: Ports{1, 2}, Table: unix.RT_TABLE_MAIN}
	if f == model.IPv6 {
		want.From = netip.MustParsePrefix("2001:db8::1/128")
	}
	if err := netlink.RuleAdd(want.kernel()); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add probe rule %s: %w", want, err)
	}
	defer func() { _ = netlink.RuleDel(want.kernel()) }()
	rules, err := dump(func() ([]netlink.Rule, error) { return netlink.RuleList(f.AF()) })
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	for _, r := range rules {
		if r.Priority == want.Pref && r.Protocol == Protocol && ruleFromKernel(r, f) == want {
			return nil
		}
	}
	return ErrOldKernel
}
