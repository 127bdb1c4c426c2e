package zone

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/dns/wire"
	"github.com/warrennet/warren/internal/model"
)

// rrsets are the record sets of one name, by type. A name without sets exists and is empty.
type rrsets struct{ sets []wire.RRSet }

func (r *rrsets) get(typ uint16) *wire.RRSet {
	for i := range r.sets {
		if r.sets[i].Type == typ {
			return &r.sets[i]
		}
	}
	return nil
}

// service is the compiled form of one Service: its own name and the names below it. It is immutable.
type service struct {
	self *rrsets
	subs map[string]*rrsets // by the labels left of the Service name, wire form in lower case
	// target is the external name of type ExternalName in wire form. self then has the CNAME only.
	target  string
	ptrs    []ptrRecord
	problem string // what is not served, "" for nothing
}

// ptrRecord is one reverse record of a Service.
type ptrRecord struct {
	addr  netip.Addr
	name  string // wire form
	owner owner
}

func (p ptrRecord) compare(o ptrRecord) int {
	return cmp.Or(p.addr.Compare(o.addr), strings.Compare(p.name, o.name), cmp.Compare(p.owner.created, o.owner.created))
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

// compiler has what the Services of a zone share.
type compiler struct {
	zone string // wire form of "svc.<domain>"
	ttl  uint32
}

// compile returns the names of a Service, nil when it has none.
func (c compiler) compile(svc *model.Service, sl []*model.EndpointSlice) *service {
	name, err := wire.AppendLabel(nil, svc.Name)
	if err == nil {
		name, err = wire.AppendLabel(name, svc.Namespace)
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
	target, err := wire.EncodeName(svc.ExternalName)
	if err != nil || len(target) < 2 {
		return nil
	}
	set := wire.RRSet{Type: wire.TypeCNAME, Answers: 1, Wire: wire.AppendNameRecord(nil, wire.QuestionPointer, wire.TypeCNAME, c.ttl,
		target)}
	return &service{self: &rrsets{[]wire.RRSet{set}}, target: target}
}

func (c compiler) cluster(svc *model.Service, full string) *service {
	s := &service{self: addresses(svc.ClusterIPs, c.ttl), subs: map[string]*rrsets{}}
	own := owner{svc.Namespace, svc.Created.UnixNano(), true}
	for _, a := range svc.ClusterIPs {
		s.ptrs = append(s.ptrs, ptrRecord{a.Unmap(), full, own})
	}
	s.ptrs = sortUnique(s.ptrs, ptrRecord.compare)
	var every []srvTarget
	for _, p := range svc.Ports {
		every = append(every, srvTarget{"", p.Port})
		s.addSRV(p.Name, p.Protocol, srvRecords{[]srvTarget{{"", p.Port}}, full, c.ttl, svc.ClusterIPs, nil})
	}
	s.addServiceSRV(srvRecords{every, full, c.ttl, nil, nil})
	return s
}

// headless compiles the ready endpoints, or all endpoints with publishNotReadyAddresses. Without endpoints the name does
// not exist.
func (c compiler) headless(svc *model.Service, sl []*model.EndpointSlice, full string) *service {
	var all []netip.Addr
	hosts := map[string][]netip.Addr{}
	ports := map[model.EndpointPort][]srvTarget{} // slices may have different port numbers
	s := &service{subs: map[string]*rrsets{}}
	own, limits := owner{svc.Namespace, svc.Created.UnixNano(), false}, caps{}
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
			if !limits.admitHost(e.Hostname, addr, len(hosts[host])) {
				continue
			}
			hosts[host] = append(hosts[host], addr)
			s.ptrs = append(s.ptrs, ptrRecord{addr, host + full, own})
			for _, p := range slice.Ports {
				if key := (model.EndpointPort{Name: p.Name, Protocol: p.Protocol}); limits.admitSRV() {
					ports[key] = append(ports[key], srvTarget{host, p.Port})
				}
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	s.problem = limits.problem(svc.ObjectName.String())
	s.ptrs = sortUnique(s.ptrs, ptrRecord.compare)
	s.self = addresses(all, c.ttl)
	for host, a := range hosts {
		s.subs[host] = addresses(a, c.ttl)
	}
	var every []srvTarget
	for p, t := range ports {
		every = append(every, t...)
		s.addSRV(p.Name, p.Protocol, srvRecords{t, full, c.ttl, nil, hosts})
	}
	s.addServiceSRV(srvRecords{every, full, c.ttl, nil, nil})
	return s
}

// hostLabel returns the label of an endpoint in wire form: its host name, or its address with dashes.
func hostLabel(hostname string, a netip.Addr) (string, error) {
	if hostname == "" {
		hostname = strings.Map(func(r rune) rune {
			if r == '.' || r == ':' {
				return '-'
			}
			return r
		}, a.WithZone("").String())
	}
	b, err := wire.AppendLabel(nil, hostname)
	return string(b), err
}

// addresses returns the A and AAAA sets of a name.
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
		set := wire.RRSet{Type: wire.TypeA, Answers: uint16(min(len(part), 4000)), Stride: 16}
		if part[0].Is6() {
			set.Type, set.Stride = wire.TypeAAAA, 28
		}
		part = part[:set.Answers] // the most that a message of 64 KB holds
		set.Wire = make([]byte, 0, len(part)*int(set.Stride))
		for _, a := range part {
			set.Wire = wire.AppendAddress(set.Wire, wire.QuestionPointer, a, ttl)
		}
		r.sets = append(r.sets, set)
	}
	return r
}

// srvTarget is the target of an SRV record: the label below the Service name ("" for the Service itself) and the port.
type srvTarget struct {
	host string
	port uint16
}

// addSRV adds the SRV set of one named port, and the empty name above it. A port without a name has no SRV record.
func (s *service) addSRV(port string, proto model.Protocol, r srvRecords) {
	p, err := wire.AppendLabel(nil, "_"+port)
	if port == "" || err != nil {
		return
	}
	above, _ := wire.AppendLabel(nil, "_"+proto.String())
	name := string(p) + string(above)
	if len(name)+len(r.full) > 255 {
		return
	}
	r.targets = sortUnique(r.targets, compareSRVTargets)
	set := r.set(wire.HeaderLen + len(name) + len(r.full) + 4)
	s.subs[name] = &rrsets{[]wire.RRSet{set}}
	if s.subs[string(above)] == nil {
		s.subs[string(above)] = &rrsets{}
	}
}

// addServiceSRV adds SRV records at the Service's own name, for all ports, as CoreDNS does: peer discovery of StatefulSets
// queries them. They have no additional records. A Service with one named port shares the records of that port.
func (s *service) addServiceSRV(r srvRecords) {
	if len(r.targets) == 0 || s.self == nil {
		return
	}
	r.targets = sortUnique(r.targets, compareSRVTargets)
	all := r.set(0)
	for _, sub := range s.subs {
		if len(sub.sets) == 1 && sub.sets[0].Type == wire.TypeSRV && sub.sets[0].Answers == all.Answers {
			own, end := sub.sets[0], 0
			for range own.Answers {
				end += wire.RecordLen(own.Wire[end:])
			}
			own.Additional, own.Wire = 0, own.Wire[:end:end]
			if bytes.Equal(all.Wire, own.Wire) {
				s.self.sets = append(s.self.sets, own) // shares the bytes
				return
			}
		}
	}
	s.self.sets = append(s.self.sets, all)
}

func compareSRVTargets(a, b srvTarget) int {
	return cmp.Or(strings.Compare(a.host, b.host), cmp.Compare(a.port, b.port))
}

// srvRecords are the targets of one SRV record set.
type srvRecords struct {
	targets []srvTarget
	full    string // name of the Service in wire form
	ttl     uint32
	own     []netip.Addr            // addresses of the Service, for additional records
	hosts   map[string][]netip.Addr // addresses of its endpoints, likewise
}

// addrs returns the addresses of a target.
func (r srvRecords) addrs(host string) []netip.Addr {
	if host == "" {
		return r.own
	}
	return r.hosts[host]
}

// set writes the SRV records and the addresses of their targets. base is the offset of the records in the message, which is
// the same for every spelling of the name: the owners of the additional records are pointers into the targets.
func (r srvRecords) set(base int) wire.RRSet {
	set := wire.RRSet{Type: wire.TypeSRV}
	at := make([]int, 0, len(r.targets))
	for _, t := range r.targets {
		if len(set.Wire) > wire.TCPSize {
			break
		}
		set.Wire = wire.AppendRecordHeader(set.Wire, wire.QuestionPointer, wire.TypeSRV, r.ttl, 6+len(t.host)+len(r.full))
		set.Wire = append(set.Wire, 0, 0) // priority
		set.Wire = binary.BigEndian.AppendUint16(set.Wire, uint16(max(1, 100/len(r.targets))))
		set.Wire = binary.BigEndian.AppendUint16(set.Wire, t.port)
		at = append(at, base+len(set.Wire))
		set.Wire = append(append(set.Wire, t.host...), r.full...) // RFC 2782: not compressed
		set.Answers++
	}
	for i, owner := range at {
		if r.own == nil && r.hosts == nil {
			break
		}
		if owner > 0x3fff || len(set.Wire) > wire.TCPSize {
			break // beyond the range of a compression pointer: the client queries these addresses
		}
		if i > 0 && r.targets[i].host == r.targets[i-1].host {
			continue // two ports, one host
		}
		for _, a := range r.addrs(r.targets[i].host) {
			set.Wire = wire.AppendAddress(set.Wire, 0xC000|uint16(owner), a.Unmap(), r.ttl)
			set.Additional++
		}
	}
	return set
}

func sortUnique[T comparable](s []T, order func(a, b T) int) []T {
	slices.SortFunc(s, order)
	return slices.Compact(s)
}
