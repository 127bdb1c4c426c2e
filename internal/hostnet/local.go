package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lastLocalPref is where the rule of the table local stands a second time, behind everything: a program that deletes
// the rules it does not know (systemd-networkd does, but for those of protocol kernel) must not take the node's own
// addresses with it.
const lastLocalPref = 32765

// moveLocal moves the rule of the table local to pref, or back to 0. The new one is added before the old one goes, and
// both carry protocol kernel.
func (s *setter) moveLocal(pref int) {
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := dump(func() ([]netlink.Rule, error) { return netlink.RuleList(fam) })
		if err != nil {
			s.fail("list rules: %w", err)
			return
		}
		want := []int{0}
		if pref != 0 {
			want = []int{pref, lastLocalPref}
		}
		if pref != 0 && !slices.ContainsFunc(rules, func(r netlink.Rule) bool { return isLocal(r) && r.Priority == pref }) {
			// Only before the move: a probe changes the rules for a moment, and whoever watches them would Set again.
			if err := probe(fam); err != nil {
				s.fail("move the rule of table local: %w", err)
				return
			}
		}
		failed := len(s.errs)
		for _, p := range want {
			if !slices.ContainsFunc(rules, func(r netlink.Rule) bool { return isLocal(r) && r.Priority == p }) {
				s.did("add", localName(fam, p), netlink.RuleAdd(localRule(fam, p)))
			}
		}
		if len(s.errs) > failed {
			return // never remove the last way to the node's own addresses after a failed add
		}
		for _, r := range rules {
			if isLocal(r) && !slices.Contains(want, r.Priority) {
				r.Family = fam
				s.did("remove", localName(fam, r.Priority), gone(netlink.RuleDel(&r)))
			}
		}
	}
}

// isLocal knows the kernel's rule, warren's copies of it, and one that somebody put back at preference 0, which would
// undo the move. Others' rules with that table are narrower (they match something) or stand elsewhere.
func isLocal(r netlink.Rule) bool {
	return r.Table == unix.RT_TABLE_LOCAL && (r.Protocol == unix.RTPROT_KERNEL || r.Priority == 0) && r.Src == nil && r.Dst == nil && r.IifName == "" && r.OifName == ""
}

func localRule(fam, pref int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Protocol = fam, pref, unix.RT_TABLE_LOCAL, unix.RTPROT_KERNEL
	return r
}

func localName(fam, pref int) string {
	if fam == netlink.FAMILY_V6 {
		return fmt.Sprintf("rule -6 pref %d lookup local", pref)
	}
	return fmt.Sprintf("rule pref %d lookup local", pref)
}

// ErrOldKernel says that the kernel ignores protocols and ports in rules, and would steer everything.
var ErrOldKernel = errors.New("the kernel ignores ipproto and ports in policy rules; Services need Linux 4.19 or newer")

// probe adds a rule with protocol and ports on a documentation address (RFC 5737, RFC 3849), reads it back and removes
// it: an old kernel takes the rule and forgets the ports.
func probe(fam int) error {
	want := Rule{Pref: 32764, From: netip.MustParsePrefix("192.0.2.1/32"), Proto: unix.IPPROTO_TCP, Dport: Ports{1, 2}, Table: unix.RT_TABLE_MAIN}
	if fam == netlink.FAMILY_V6 {
		want.V6, want.From = true, netip.MustParsePrefix("2001:db8::1/128")
	}
	if err := netlink.RuleAdd(want.kernel()); err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("probe with %s: %w", want, err)
	}
	defer func() { _ = netlink.RuleDel(want.kernel()) }()
	rules, err := dump(func() ([]netlink.Rule, error) { return netlink.RuleList(fam) })
	if err != nil {
		return err
	}
	for _, r := range rules {
		if r.Priority == want.Pref && r.Protocol == Protocol && ruleFromKernel(r, fam) == want {
			return nil
		}
	}
	return ErrOldKernel
}
