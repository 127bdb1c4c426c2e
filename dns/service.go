package dns

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// rrsets is everything one name has, by type. A rec without sets is a name that exists and is empty.
type rrsets struct{ sets []rrset }

func (r *rrsets) get(typ uint16) *rrset {
	for i := range r.sets {
		if r.sets[i].typ == typ {
			return &r.sets[i]
		}
	}
	return nil
}

// service is the immutable compiled form of one Service: its own name and all names below it.
type service struct {
	self *rrsets
	subs map[string]*rrsets // by the labels left of the Service's name, wire form in lower case
	// target is an ExternalName in wire form; self then has the CNAME alone.
	target string
	ptrs   []ptrRecord
}

// ptrRecord is one reverse record that a Service brings.
type ptrRecord struct {
	addr netip.Addr
	name string // wire form
}

func (p ptrRecord) compare(o ptrRecord) int {
	return cmp.Or(p.addr.Compare(o.addr), strings.Compare(p.name, o.name))
}

func (s *service) ptrRecords() []ptrRecord {
	if s == nil {
		return nil
	}
	return s.ptrs // sorted
}

func (s *service) hasPTR(p ptrRecord) bool {
	_, ok := slices.BinarySearchFunc(s.ptrRecords(), p, ptrRecord.compare)
	return ok
}

// compiler holds what all Services of a zone share.
type compiler struct {
	zone string // wire form of "svc.<domain>"
	ttl  uint32
}

// compile turns a Service and its slices into its names; nil when it has none.
func (c compiler) compile(svc *model.Service, sl []*model.EndpointSlice) *service {
	name, err := appendLabel(nil, svc.Name)
	if err == nil {
		name, err = appendLabel(name, svc.Namespace)
	}
	full := string(name) + c.zone
	if err != nil || len(full) > 255 {
		return nil
	}
	switch {
	case svc.Type == model.ExternalName:
		return c.external(svc)
	case svc.Headless:
		return c.headless(svc, sl, full)
	case len(svc.ClusterIPs) > 0:
		return c.cluster(svc, full)
	}
	return nil
}

func (c compiler) external(svc *model.Service) *service {
	target, err := encodeName(svc.ExternalName)
	if err != nil || len(target) < 2 {
		return nil
	}
	set := rrset{typ: typeCNAME, answers: 1, wire: appendTarget(nil, questionPointer, typeCNAME, c.ttl, target)}
	return &service{self: &rrsets{[]rrset{set}}, target: target}
}

func (c compiler) cluster(svc *model.Service, full string) *service {
	s := &service{self: addresses(svc.ClusterIPs, c.ttl), subs: map[string]*rrsets{}}
	for _, a := range svc.ClusterIPs {
		s.ptrs = append(s.ptrs, ptrRecord{a.Unmap(), full})
	}
	s.ptrs = sortUnique(s.ptrs, ptrRecord.compare)
	var every []srvTarget
	for _, p := range svc.Ports {
		every = append(every, srvTarget{"", p.Port})
		s.addSRV(p.Name, p.Protocol, full, c.ttl, []srvTarget{{"", p.Port}}, func(string) []netip.Addr { return svc.ClusterIPs })
	}
	s.addServiceSRV(every, full, c.ttl)
	return s
}

// headless serves the ready endpoints, or all with publishNotReadyAddresses. Without any the Service does not exist.
func (c compiler) headless(svc *model.Service, sl []*model.EndpointSlice, full string) *service {
	var all []netip.Addr
	hosts := map[string][]netip.Addr{}
	ports := map[model.EndpointPort][]srvTarget{} // the number is kept per target: it may differ between slices
	s := &service{subs: map[string]*rrsets{}}
	for _, slice := range sl {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if !e.Ready && !svc.PublishNotReady || !e.Addr.IsValid() {
				continue
			}
			addr := e.Addr.Unmap()
			host, err := hostLabel(e.Hostname, addr)
			if err != nil || len(host)+len(full) > 255 {
				continue
			}
			all = append(all, addr)
			hosts[host] = append(hosts[host], addr)
			s.ptrs = append(s.ptrs, ptrRecord{addr, host + full})
			for _, p := range slice.Ports {
				key := model.EndpointPort{Name: p.Name, Protocol: p.Protocol}
				ports[key] = append(ports[key], srvTarget{host, p.Port})
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	s.ptrs = sortUnique(s.ptrs, ptrRecord.compare)
	s.self = addresses(all, c.ttl)
	for host, a := range hosts {
		s.subs[host] = addresses(a, c.ttl)
	}
	var every []srvTarget
	for p, t := range ports {
		every = append(every, t...)
		s.addSRV(p.Name, p.Protocol, full, c.ttl, t, func(host string) []netip.Addr { return hosts[host] })
	}
	s.addServiceSRV(every, full, c.ttl)
	return s
}

// hostLabel is an endpoint's host name as a label in wire form: its own, or its address with dashes.
func hostLabel(hostname string, a netip.Addr) (string, error) {
	if hostname == "" {
		hostname = strings.Map(func(r rune) rune {
			if r == '.' || r == ':' {
				return '-'
			}
			return r
		}, a.WithZone("").String())
	}
	b, err := appendLabel(nil, hostname)
	return string(b), err
}

// addresses makes the A and AAAA sets of a name.
func addresses(addrs []netip.Addr, ttl uint32) *rrsets {
	r := &rrsets{}
	own := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		own = append(own, a.Unmap())
	}
	own = sortUnique(own, netip.Addr.Compare) // IPv4 sorts before IPv6
	n4 := 0
	for n4 < len(own) && own[n4].Is4() {
		n4++
	}
	for _, part := range [][]netip.Addr{own[:n4], own[n4:]} {
		if len(part) == 0 {
			continue
		}
		set := rrset{typ: typeA, answers: uint16(min(len(part), 4000)), stride: 16}
		if part[0].Is6() {
			set.typ, set.stride = typeAAAA, 28
		}
		part = part[:set.answers] // 64 KB would not hold more
		set.wire = make([]byte, 0, len(part)*int(set.stride))
		for _, a := range part {
			set.wire = appendAddr(set.wire, questionPointer, a, ttl)
		}
		r.sets = append(r.sets, set)
	}
	return r
}

// srvTarget is one SRV target: the host label below the Service ("" is the Service itself) and the port.
type srvTarget struct {
	host string
	port uint16
}

// addSRV adds the SRV set of one named port, and the empty name above it. Unnamed ports have none.
func (s *service) addSRV(port string, proto model.Protocol, full string, ttl uint32, targets []srvTarget, addrs func(host string) []netip.Addr) {
	p, err := appendLabel(nil, "_"+port)
	if port == "" || err != nil {
		return
	}
	above, _ := appendLabel(nil, "_"+proto.String())
	name := string(p) + string(above)
	if len(name)+len(full) > 255 {
		return
	}
	targets = sortUnique(targets, compareSRVTargets)
	set := srvSet(targets, headerLen+len(name)+len(full)+4, full, ttl, addrs)
	s.subs[name] = &rrsets{[]rrset{set}}
	if s.subs[string(above)] == nil {
		s.subs[string(above)] = &rrsets{}
	}
}

// addServiceSRV answers SRV at the Service's own name with all its ports, as CoreDNS does: peer finders of StatefulSets ask so.
// There are no additional records; the records of a Service with one named port are those of that port.
func (s *service) addServiceSRV(targets []srvTarget, full string, ttl uint32) {
	if len(targets) == 0 || s.self == nil {
		return
	}
	targets = sortUnique(targets, compareSRVTargets)
	for _, r := range s.subs {
		if len(r.sets) == 1 && r.sets[0].typ == typeSRV && int(r.sets[0].answers) == len(targets) {
			own, end := r.sets[0], 0
			for range own.answers {
				end += recordLen(own.wire[end:])
			}
			own.additional, own.wire = 0, own.wire[:end:end]
			if same := srvSet(targets, 0, full, ttl, nil); bytes.Equal(same.wire, own.wire) {
				s.self.sets = append(s.self.sets, own)
				return
			}
		}
	}
	s.self.sets = append(s.self.sets, srvSet(targets, 0, full, ttl, nil))
}

func compareSRVTargets(a, b srvTarget) int {
	return cmp.Or(strings.Compare(a.host, b.host), cmp.Compare(a.port, b.port))
}

// srvSet writes the SRV records and the addresses of their targets. base is where the records start in the message,
// which is the same for every question of this name: the owners of the additional records point into the targets.
func srvSet(targets []srvTarget, base int, full string, ttl uint32, addrs func(host string) []netip.Addr) rrset {
	set := rrset{typ: typeSRV}
	at := make([]int, 0, len(targets))
	for _, t := range targets {
		if len(set.wire) > tcpSize {
			break
		}
		set.wire = appendHead(set.wire, questionPointer, typeSRV, ttl, 6+len(t.host)+len(full))
		set.wire = append(set.wire, 0, 0) // priority
		set.wire = binary.BigEndian.AppendUint16(set.wire, uint16(max(1, 100/len(targets))))
		set.wire = binary.BigEndian.AppendUint16(set.wire, t.port)
		at = append(at, base+len(set.wire))
		set.wire = append(append(set.wire, t.host...), full...) // RFC 2782: not compressed
		set.answers++
	}
	for i, owner := range at {
		if addrs == nil {
			break
		}
		if owner > 0x3fff || len(set.wire) > tcpSize {
			break // out of a pointer's reach: the client asks for the rest
		}
		if i > 0 && targets[i].host == targets[i-1].host {
			continue // two ports, one host
		}
		for _, a := range addrs(targets[i].host) {
			set.wire = appendAddr(set.wire, 0xC000|uint16(owner), a.Unmap(), ttl)
			set.additional++
		}
	}
	return set
}

func sortUnique[T comparable](s []T, order func(a, b T) int) []T {
	slices.SortFunc(s, order)
	return slices.Compact(s)
}
