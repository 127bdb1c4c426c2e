// Package hostnet is the agent's only hand on the kernel's network configuration: the addresses of warren0, routes and
// rules with warren's protocol number, and the sysctls they need.
//
// It has one verb, Set(desired): compare with what the kernel holds, add what is missing, then remove what is warren's
// and no longer wanted. It recognises its own by the route protocol number Protocol; nothing else is ever changed or
// removed, and no table is ever flushed. Uninstall takes everything back, sysctls included. Pods' interfaces belong to
// the CNI plugin, the TUN itself to package tunnel.
package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
)

// Protocol marks warren's routes and rules (rtm_protocol); the number is not one of iproute2's registered ones.
const Protocol = 119

// State is everything warren wants of one node's network configuration.
type State struct {
	Link   string         // the TUN, "warren0"
	Addrs  []netip.Prefix // on Link
	Routes []Route
	// PodRoutes go over Pods' interfaces, which vanish at any time: one without its interface is passed over.
	PodRoutes []Route
	Rules     []Rule
	Sysctls   []Sysctl
	// LocalPref moves the rule of the table local from preference 0 to this one, so that rules can stand before it; 0
	// leaves it where the kernel puts it.
	LocalPref int
	// LocalPorts of 127.0.0.1 may be opened from the node's other addresses in spite of a kubelet's firewall.
	LocalPorts []LocalPort
}

// RouteType is the kind of a route.
type RouteType string

// The kinds of routes that warren uses; names as in ip-route(8).
const (
	Unicast     RouteType = "unicast"
	Blackhole   RouteType = "blackhole"
	Unreachable RouteType = "unreachable"
	Throw       RouteType = "throw"
)

// Route is one route of warren's.
type Route struct {
	Table  int
	Type   RouteType
	Dst    netip.Prefix // 0.0.0.0/0 or ::/0 for the default
	Dev    string       // Unicast only
	Src    netip.Addr   // preferred source address, optional
	Metric int
	MTU    int // bytes, 0: that of Dev
}

func (r Route) String() string {
	s := ""
	if r.Type != Unicast {
		s = string(r.Type) + " "
	}
	s += r.Dst.String()
	if r.Dev != "" {
		s += " dev " + r.Dev
	}
	s += fmt.Sprintf(" table %d", r.Table)
	if r.Src.IsValid() {
		s += " src " + r.Src.String()
	}
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	if r.MTU != 0 {
		s += fmt.Sprintf(" mtu %d", r.MTU)
	}
	return s
}

// Ports is a range of ports, both ends included; the zero value matches every port. A range must not end in 65535,
// which the kernel takes for "no range".
type Ports struct{ Lo, Hi uint16 }

// Rule is one policy rule of warren's. Either Table or Goto is set.
type Rule struct {
	Pref         int
	V6           bool
	From, To     netip.Prefix // optional
	IIF          string       // optional
	Proto        uint8        // IP protocol number, 0 for any; needs Linux 4.17
	Sport, Dport Ports        // optional, with Proto; needs Linux 4.17
	Table        int          // lookup
	Goto         int          // preference of a later rule
}

func (r Rule) String() string {
	s := fmt.Sprintf("pref %d", r.Pref)
	if r.V6 {
		s = "-6 " + s
	}
	if r.From.IsValid() {
		s += " from " + r.From.String()
	}
	if r.To.IsValid() {
		s += " to " + r.To.String()
	}
	if r.IIF != "" {
		s += " iif " + r.IIF
	}
	if r.Proto != 0 {
		s += fmt.Sprintf(" ipproto %d", r.Proto)
	}
	for _, p := range []struct {
		name string
		r    Ports
	}{{"sport", r.Sport}, {"dport", r.Dport}} {
		if p.r != (Ports{}) {
			s += fmt.Sprintf(" %s %d-%d", p.name, p.r.Lo, p.r.Hi)
		}
	}
	if r.Goto != 0 {
		return s + fmt.Sprintf(" goto %d", r.Goto)
	}
	return s + fmt.Sprintf(" lookup %d", r.Table)
}

// Sysctl is a value below /proc/sys/net. If is the value that must be there for it to be changed ("" for any); Optional
// ones are passed over where the kernel has no such file. Append adds the comma separated elements of Value to a list.
type Sysctl struct {
	Path     string // "ipv4/ip_forward"
	Value    string
	If       string
	Optional bool
	Append   bool
}

// Host is one network namespace's configuration. Its methods may be called from several goroutines.
type Host struct {
	mu      sync.Mutex
	log     *slog.Logger
	sysctls *sysctls
	expect  expectations
}

// New prepares a hand on the network namespace of the caller. procNet is where /proc/sys/net is mounted; saved is the
// file that keeps the sysctls' former values for Uninstall.
func New(procNet, saved string, log *slog.Logger) *Host {
	return &Host{log: log, sysctls: &sysctls{root: procNet, file: saved}}
}

// Set makes the kernel hold the desired state. It carries on past single failures and joins the errors. The returned
// number counts what it changed; a second Set with the same state changes nothing.
func (h *Host) Set(want State) (changed int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	link, err := netlink.LinkByName(want.Link)
	if err != nil {
		return 0, fmt.Errorf("link %s: %w", want.Link, err)
	}
	s := &setter{want: want, link: link}
	s.sysctls(h.sysctls)
	s.up()
	addrsLeft := s.addAddrs()
	routesLeft := s.addRoutes()
	rulesLeft := s.addRules()
	s.moveLocal(want.LocalPref)
	s.remove("rule", rulesLeft)
	s.remove("route", routesLeft)
	s.remove("address", addrsLeft)
	h.expect.set(want.LocalPorts, h.log)
	for _, c := range s.changes {
		h.log.Debug("host network changed", "change", c)
	}
	return len(s.changes), errors.Join(s.errs...)
}

// setter is one run of Set: it gathers what it changed and what failed.
type setter struct {
	want    State
	link    netlink.Link
	changes []string
	errs    []error
}

// removal is something of ours that is no longer wanted.
type removal struct {
	name string
	do   func() error
}

func (s *setter) did(act, object string, err error) {
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("%s %s: %w", act, object, err))
		return
	}
	s.changes = append(s.changes, act+" "+object)
}

func (s *setter) fail(format string, args ...any) {
	s.errs = append(s.errs, fmt.Errorf(format, args...))
}

func (s *setter) remove(kind string, left []removal) {
	for _, r := range left {
		s.did("remove "+kind, r.name, r.do())
	}
}

// up sets the link up: routes through a link that is down are refused.
func (s *setter) up() {
	if s.link.Attrs().Flags&1 == 0 { // IFF_UP
		s.did("set up", "link "+s.want.Link, netlink.LinkSetUp(s.link))
	}
}
