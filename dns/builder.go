package dns

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// builder makes indexes from snapshots and remembers what the last one was made of: a Service whose objects say the
// same keeps its compiled form. It is used by one goroutine at a time.
type builder struct {
	config *zoneConfig
	listen []netip.Addr // addresses of ns.dns.<domain>
	built  map[model.ObjectName]built
	rev    *reverse
}

type built struct {
	in  input
	key string // "<service>.<ns>" in wire form
	out *service
}

// input is what a compiled Service depends on. It points into the newest snapshot, so older ones are let go.
type input struct {
	svc    *model.Service
	slices []*model.EndpointSlice
}

func newBuilder(z *zoneConfig, listen []netip.Addr) *builder {
	return &builder{config: z, listen: listen, built: map[model.ObjectName]built{}, rev: &reverse{}}
}

// index compiles what has changed since the last call.
func (b *builder) index(snap *model.Snapshot) *index {
	x := &index{revision: snap.Revision, config: b.config, namespaces: namespaces(snap), services: make(map[string]*service, len(snap.Services)), unready: map[string]struct{}{}}
	c := compiler{zone: "\x03svc" + b.config.domain, ttl: b.config.ttl}
	rev := &reverseBuilder{reverse: *b.rev}
	next := make(map[model.ObjectName]built, len(snap.Services))
	all := groupSlices(snap)
	for i := range snap.Services {
		in := input{&snap.Services[i], all.of(snap.Services[i].ObjectName)}
		was, known := b.built[in.svc.ObjectName]
		now := built{in: in, key: was.key, out: was.out}
		if !known || !sameInput(was.in, in) {
			now.key, now.out = serviceKey(in.svc), c.compile(in.svc, in.slices)
			rev.replace(was.out, now.out)
		}
		next[in.svc.ObjectName] = now
		if now.out != nil {
			x.services[now.key] = now.out
		} else {
			x.unready[now.key] = struct{}{}
		}
	}
	for name, was := range b.built {
		if _, still := next[name]; !still {
			rev.replace(was.out, nil)
		}
	}
	b.built, b.rev = next, &rev.reverse
	x.reverse = b.rev
	b.fixed(x, snap)
	return x
}

func serviceKey(svc *model.Service) string {
	b, _ := appendLabel(nil, svc.Name)
	b, _ = appendLabel(b, svc.Namespace)
	return string(b)
}

// replace takes the reverse records that one compiled Service alone had out, and puts those its successor alone has in.
func (b *reverseBuilder) replace(was, now *service) {
	for _, p := range was.ptrRecords() {
		if !now.hasPTR(p) {
			b.remove(p)
		}
	}
	for _, p := range now.ptrRecords() {
		if !was.hasPTR(p) {
			b.add(p)
		}
	}
}

// fixed fills in the names that are not Services'.
func (b *builder) fixed(x *index, snap *model.Snapshot) {
	x.soa = soaRecord(b.config, uint32(snap.Revision))
	for _, p := range slices.Concat(snap.Cluster.PodCIDRs, snap.ServiceCIDRs) {
		if p.IsValid() {
			x.reverseZones = append(x.reverseZones, newReverseZone(p))
		}
	}
	apex := &rrsets{[]rrset{
		{typ: typeSOA, answers: 1, wire: append(binary.BigEndian.AppendUint16(nil, questionPointer), x.soa...)},
		{typ: typeNS, answers: 1, wire: appendTarget(nil, questionPointer, typeNS, b.config.ttl, "\x02ns\x03dns"+b.config.domain)},
	}}
	version := append(appendHead(nil, questionPointer, typeTXT, b.config.ttl, 6), "\x051.1.0"...)
	x.apex = apex
	x.static = map[string]*rrsets{
		"":                apex,
		"\x03dns":         {},
		"\x02ns\x03dns":   addresses(b.listen, b.config.ttl),
		"\x04node":        {},
		"\x0bdns-version": {[]rrset{{typ: typeTXT, answers: 1, wire: version}}},
	}
	x.nodes = nodeNames(snap.Nodes, b.config)
	if b.config.pods == PodsVerified {
		x.pods = podNames(snap.Pods)
	}
}

// nodeNames serves each node's own addresses; a name with dots leaves empty names above it.
func nodeNames(nodes []model.Node, z *zoneConfig) map[string]*rrsets {
	out := make(map[string]*rrsets, len(nodes))
	for i := range nodes {
		n := &nodes[i]
		name, err := encodeName(n.Name)
		if err != nil || len(name) < 2 || len(name)+5+len(z.domain) > 255 {
			continue
		}
		name = name[:len(name)-1]
		addrs := n.Addresses
		if len(addrs) == 0 {
			for _, e := range n.Endpoints {
				addrs = append(addrs, e.Addr())
			}
		}
		out[name] = addresses(addrs, z.ttl)
		for up := name[1+name[0]:]; up != ""; up = up[1+up[0]:] {
			if out[up] == nil {
				out[up] = &rrsets{}
			}
		}
	}
	return out
}

func podNames(pods []model.Pod) map[podKey]struct{} {
	out := make(map[podKey]struct{}, len(pods))
	for i := range pods {
		for _, a := range pods[i].Addrs {
			out[podKey{a.Unmap(), strings.ToLower(pods[i].Namespace)}] = struct{}{}
		}
	}
	return out
}

// soaRecord is the zone's SOA from its type on. Its TTL and minimum are those of all records, so that no resolver keeps
// a negative answer longer than a positive one.
func soaRecord(z *zoneConfig, serial uint32) []byte {
	mname, rname := "\x02ns\x03dns"+z.domain, "\x0ahostmaster"+z.domain
	b := appendHead(nil, 0, typeSOA, z.ttl, len(mname)+len(rname)+20)[2:]
	b = append(append(b, mname...), rname...)
	for _, v := range []uint32{serial, 7200, 1800, 86400, z.ttl} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}
