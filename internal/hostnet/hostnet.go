// Package hostnet is the agent's only access to the kernel's network configuration of the node.
//
// It owns the addresses of warren0, the routes and rules with warren's protocol number (Protocol), ctnetlink expectations
// for ports of 127.0.0.1, and the sysctls that they need. Its one verb is Set(desired): it compares with the kernel's
// state, adds what is missing, then removes what is warren's and not wanted. Uninstall removes everything and restores
// the sysctls.
//
// It never changes or removes an object without warren's protocol number, and never flushes a table. The interfaces of
// Pods belong to the CNI plugin (cni/veth), the TUN device to package tunnel. It starts no goroutine.
//
// All netlink of the package goes through github.com/vishvananda/netlink. Two subsystems that this library does not
// cover use its message layer, vishvananda/netlink/nl: listing the chains of nf_tables (chains.go) and creating ctnetlink
// expectations (expectations.go). The libraries for these are google/nftables and ti-mo/conntrack. They would bring a
// second netlink stack (mdlayher/netlink and mdlayher/socket) for one dump and three messages, and CreateExpect of
// ti-mo/conntrack is marked as not working by its author.
package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Protocol marks warren's routes and rules (rtm_protocol); the number is not one of iproute2's registered ones.
const Protocol = 119

// State is the desired network configuration of one node.
type State struct {
	Link   string         // the TUN, "warren0"
	Addrs  []netip.Prefix // on Link
	Routes []Route
	// ObjectRoutes and ObjectRules come from users' objects and from records of other nodes. The kernel may refuse one; the
	// node does not need it to be ready.
	ObjectRoutes []Route
	ObjectRules  []Rule
	// PodRoutes are routes over Pods' interfaces. An interface may be deleted at any time; its route is then skipped.
	PodRoutes []Route
	Rules     []Rule
	Sysctls   []Sysctl
	// LocalPref is the preference of the rule for table local. The kernel installs it at 0; at another preference, rules
	// can be looked up before it. 0 leaves it unchanged.
	LocalPref int
	// LocalPorts of 127.0.0.1 can be reached from the node's other addresses, also where the kubelet's firewall drops such
	// packets.
	LocalPorts []LocalPort
}

// Sysctl is the desired value of a file below /proc/sys/net.
type Sysctl struct {
	Path     string // below /proc/sys/net, such as "ipv4/ip_forward"
	Value    string
	If       string // the value is changed only from this one; "" for any
	Optional bool   // skipped where the kernel has no such file
	Append   bool   // Value holds comma-separated elements that are added to the list in the file
}

// Host is one network namespace's configuration. Its methods may be called from several goroutines.
type Host struct {
	mu      sync.Mutex
	log     *slog.Logger
	sysctls *sysctls
	expect  expectations
}

// New returns the Host of the caller's network namespace, without side effects. procNet is the path of /proc/sys/net.
// saved is the file for the sysctls' former values, which Uninstall restores.
func New(procNet, saved string, log *slog.Logger) *Host {
	return &Host{log: log, sysctls: &sysctls{root: procNet, file: saved}}
}

// Set brings the kernel to the desired state. It continues after single failures. err joins those of the node's own
// configuration; refused has those of entries that come from objects and other nodes' records, and of removals. changed is the
// number of changes; a second Set with the same state changes nothing, but tries again what failed.
func (h *Host) Set(want State) (changed int, refused []error, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	link, err := netlink.LinkByName(want.Link)
	if err != nil {
		return 0, nil, fmt.Errorf("link %s: %w", want.Link, err)
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
		h.log.Debug("changed the host network configuration", "changes", c)
	}
	return len(s.changes), s.refused, errors.Join(s.errs...)
}

// setter is one run of Set. It collects the changes and the errors.
type setter struct {
	want    State
	link    netlink.Link
	changes []string
	errs    []error // of the node's own configuration
	refused []error // of everything else
}

// removal is the pending removal of one object.
type removal struct {
	name string
	do   func() error
}

// did records the outcome of one change of the node's own configuration: verb and object, as in "add" "route ...".
func (s *setter) did(verb, object string, err error) { s.record(&s.errs, verb, object, err) }

// didOther records the outcome of any other change.
func (s *setter) didOther(verb, object string, err error) { s.record(&s.refused, verb, object, err) }

func (s *setter) record(errs *[]error, verb, object string, err error) {
	if err != nil {
		*errs = append(*errs, fmt.Errorf("%s %s: %w", verb, object, err))
		return
	}
	s.changes = append(s.changes, verb+" "+object)
}

func (s *setter) fail(format string, args ...any) {
	s.errs = append(s.errs, fmt.Errorf(format, args...))
}

func (s *setter) remove(kind string, left []removal) {
	for _, r := range left {
		s.didOther("remove "+kind, r.name, r.do())
	}
}

// up sets the link up. The kernel refuses routes over a link that is down.
func (s *setter) up() {
	if s.link.Attrs().Flags&net.FlagUp == 0 {
		s.did("set up", "link "+s.want.Link, netlink.LinkSetUp(s.link))
	}
}

// ignoreMissing turns the error of a removal into nil when the object did not exist.
func ignoreMissing(err error) error {
	for _, missing := range []unix.Errno{unix.ESRCH, unix.ENOENT, unix.EADDRNOTAVAIL, unix.ENODEV} {
		if errors.Is(err, missing) {
			return nil
		}
	}
	return err
}

func isLinkMissing(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing)
}

// Uninstall removes every route and rule with warren's protocol number, moves the rule of table local back to preference
// 0, and restores the sysctls. Objects that do not exist are no error.
func (h *Host) Uninstall(link string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	l, err := netlink.LinkByName(link)
	if err != nil {
		l = &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: link, Index: -1}}
	}
	s := &setter{want: State{Link: link}, link: l}
	s.moveLocal(0)
	s.remove("rule", s.addRules())
	s.remove("route", s.addRoutes())
	s.did("restore", "sysctls", h.sysctls.restore())
	return errors.Join(append(s.errs, s.refused...)...)
}
