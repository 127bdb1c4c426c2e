package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/warrennet/warren/internal/model"
	"golang.org/x/sys/unix"
)

// Ports is a range of ports, both ends included; the zero value matches every port. A range must not end in 65535,
// which the kernel takes for "no range".
type Ports struct{ Lo, Hi uint16 }

// Rule is one policy routing rule. Either Table, Goto or Type is set.
type Rule struct {
	Pref         int // preference; the lowest is looked up first
	Family       model.Family
	From, To     netip.Prefix // optional
	IIF          string       // incoming interface, optional
	Proto        uint8        // IP protocol number, 0 for any; needs Linux 4.17
	Sport, Dport Ports        // optional, with Proto; needs Linux 4.17
	Table        int          // table to look up
	Goto         int          // preference of a later rule
	Type         RouteType    // Blackhole: matching packets are dropped
}

// String returns the rule as `ip rule` lists it, without the tab; rules of IPv6 begin with -6.
func (r Rule) String() string {
	var b strings.Builder
	if r.Family == model.IPv6 {
		b.WriteString("-6 ")
	}
	fmt.Fprintf(&b, "%d: from ", r.Pref)
	if r.From.IsValid() {
		b.WriteString(prefixText(r.From))
	} else {
		b.WriteString("all")
	}
	if r.To.IsValid() {
		b.WriteString(" to " + prefixText(r.To))
	}
	if r.IIF != "" {
		b.WriteString(" iif " + r.IIF)
	}
	if r.Proto != 0 {
		b.WriteString(" ipproto " + protocolName(r.Proto))
	}
	if r.Sport != (Ports{}) {
		b.WriteString(" sport " + r.Sport.String())
	}
	if r.Dport != (Ports{}) {
		b.WriteString(" dport " + r.Dport.String())
	}
	switch {
	case r.Goto != 0:
		fmt.Fprintf(&b, " goto %d", r.Goto)
	case r.Type != "":
		b.WriteString(" " + string(r.Type))
	default:
		b.WriteString(" lookup " + tableName(r.Table))
	}
	return b.String()
}

// String returns "80" or "30000-32767".
func (p Ports) String() string {
	if p.Lo == p.Hi {
		return fmt.Sprint(p.Lo)
	}
	return fmt.Sprintf("%d-%d", p.Lo, p.Hi)
}

// prefixText omits the length of a host prefix.
func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func protocolName(number uint8) string {
	switch number {
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMPV6:
		return "ipv6-icmp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return fmt.Sprint(number)
}

func tableName(number int) string {
	switch number {
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_LOCAL:
		return "local"
	}
	return fmt.Sprint(number)
}

// addRules adds the missing rules and returns the rules with warren's protocol number that are not wanted.
func (s *setter) addRules() (left []removal) {
	missing := map[Rule]bool{}
	for _, r := range slices.Concat(s.want.Rules, s.want.ObjectRules) {
		missing[r] = true
	}
	for _, f := range model.Families {
		have, err := dump(func() ([]netlink.Rule, error) { return netlink.RuleList(f.AF()) })
		if err != nil {
			s.fail("list rules: %w", err)
			return nil
		}
		for _, k := range have {
			if k.Protocol != Protocol {
				continue
			}
			r := ruleFromKernel(k, f)
			if missing[r] {
				delete(missing, r)
				continue
			}
			k.Family = f.AF()
			left = append(left, removal{r.String(), func() error { return ignoreMissing(netlink.RuleDel(&k)) }})
		}
	}
	for _, r := range s.want.Rules {
		if missing[r] {
			s.did("add", "rule "+r.String(), r.add())
		}
	}
	for _, r := range s.want.ObjectRules {
		if missing[r] {
			s.didOther("add", "rule "+r.String(), r.add())
		}
	}
	return left
}

func (r Rule) add() error {
	err := netlink.RuleAdd(r.kernel())
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func ruleFromKernel(k netlink.Rule, f model.Family) Rule {
	r := Rule{Pref: k.Priority, Family: f, From: prefixOf(k.Src), To: prefixOf(k.Dst), IIF: k.IifName, Table: k.Table,
		Proto: uint8(k.IPProto)}
	if k.Sport != nil {
		r.Sport = Ports{k.Sport.Start, k.Sport.End}
	}
	if k.Dport != nil {
		r.Dport = Ports{k.Dport.Start, k.Dport.End}
	}
	if k.Goto > 0 {
		r.Goto, r.Table = k.Goto, 0
	}
	if r.Goto == 0 && r.Table == unix.RT_TABLE_UNSPEC { // the library does not read the action; warren has no other without a table
		r.Type = Blackhole
	}
	return r
}

func (r Rule) kernel() *netlink.Rule {
	k := netlink.NewRule()
	k.Priority, k.Protocol, k.IifName, k.Family, k.IPProto = r.Pref, Protocol, r.IIF, r.Family.AF(), int(r.Proto)
	switch {
	case r.Goto != 0:
		k.Goto = r.Goto
	case r.Type == Blackhole:
		k.Type = unix.RTN_BLACKHOLE // the number of FR_ACT_BLACKHOLE, too
	default:
		k.Table = r.Table
	}
	if r.From.IsValid() {
		k.Src = ipNet(r.From)
	}
	if r.To.IsValid() {
		k.Dst = ipNet(r.To)
	}
	if r.Sport != (Ports{}) {
		k.Sport = netlink.NewRulePortRange(r.Sport.Lo, r.Sport.Hi)
	}
	if r.Dport != (Ports{}) {
		k.Dport = netlink.NewRulePortRange(r.Dport.Lo, r.Dport.Hi)
	}
	return k
}
