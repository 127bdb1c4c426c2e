package zone

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/dns/wire"
	"github.com/warrennet/warren/internal/model"
)

// Builder compiles snapshots into indexes. It keeps the inputs of the previous index: a Service whose inputs have not changed
// keeps its compiled form. It is not for concurrent use.
type Builder struct {
	config *Config
	listen []netip.Addr // addresses of ns.dns.<domain>
	built  map[model.ObjectName]built
	rev    *reverse
}

type built struct {
	in  input
	key string // "<service>.<ns>" in wire form
	out *service
}

// input is everything that the names of one Service depend on. It refers to the newest snapshot only, so that older ones can
// be collected.
type input struct {
	svc    *model.Service
	slices []*model.EndpointSlice
}

// NewBuilder returns a builder for a zone. listen are the addresses of ns.dns.<domain>.
func NewBuilder(z *Config, listen []netip.Addr) *Builder {
	return &Builder{config: z, listen: listen, built: map[model.ObjectName]built{}, rev: &reverse{}}
}

// Build compiles what has changed since the previous snapshot.
func (b *Builder) Build(snap *model.Snapshot) *Index {
	x := &Index{Revision: snap.Revision, config: b.config, namespaces: namespaces(snap),
		services: make(map[string]*service, len(snap.Services)), unready: map[string]struct{}{}}
	c := compiler{zone: "\x03svc" + b.config.Domain, ttl: b.config.TTL}
	rev := newReverseBuilder(b.rev, snap.Pods)
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
			if now.out.problem != "" {
				x.problems = append(x.problems, now.out.problem)
			}
		} else {
			x.unready[now.key] = struct{}{}
		}
	}
	for name, was := range b.built {
		if _, still := next[name]; !still {
			rev.replace(was.out, nil)
		}
	}
	b.built, b.rev = next, rev.finish()
	x.reverse = b.rev
	b.fixed(x, snap)
	return x
}

func serviceKey(svc *model.Service) string {
	b, _ := wire.AppendLabel(nil, svc.Name)
	b, _ = wire.AppendLabel(b, svc.Namespace)
	return string(b)
}

// replace removes the reverse records that only the previous form of a Service has, and adds those that only the new one has.
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

// fixed fills in the names that do not belong to a Service.
func (b *Builder) fixed(x *Index, snap *model.Snapshot) {
	x.soa = soaRecord(b.config, uint32(snap.Revision))
	for i, p := range slices.Concat(snap.Cluster.PodCIDRs, snap.ServiceCIDRs) {
		if p.IsValid() {
			z := newReverseZone(p)
			z.service = i >= len(snap.Cluster.PodCIDRs)
			x.reverseZones = append(x.reverseZones, z)
		}
	}
	apex := &rrsets{[]wire.RRSet{
		{Type: wire.TypeSOA, Answers: 1, Wire: append(binary.BigEndian.AppendUint16(nil, wire.QuestionPointer), x.soa...)},
		{Type: wire.TypeNS, Answers: 1,
			Wire: wire.AppendNameRecord(nil, wire.QuestionPointer, wire.TypeNS, b.config.TTL, "\x02ns\x03dns"+b.config.Domain)},
	}}
	version := append(wire.AppendRecordHeader(nil, wire.QuestionPointer, wire.TypeTXT, b.config.TTL, 6), "\x051.1.0"...)
	x.apex = apex
	x.static = map[string]*rrsets{
		"":                apex,
		"\x03dns":         {},
		"\x02ns\x03dns":   addresses(b.listen, b.config.TTL),
		"\x04node":        {},
		"\x0bdns-version": {[]wire.RRSet{{Type: wire.TypeTXT, Answers: 1, Wire: version}}},
	}
	x.nodes = nodeNames(snap.Nodes, b.config)
	if b.config.Pods == PodsVerified {
		x.pods = podNames(snap.Pods)
	}
}

// nodeNames returns the addresses of each node. A node name with dots has empty names above it.
func nodeNames(nodes []model.Node, z *Config) map[string]*rrsets {
	out := make(map[string]*rrsets, len(nodes))
	for i := range nodes {
		n := &nodes[i]
		name, err := wire.EncodeName(n.Name)
		if err != nil || len(name) < 2 || len(name)+5+len(z.Domain) > 255 {
			continue
		}
		name = name[:len(name)-1]
		addrs := n.Addresses
		if len(addrs) == 0 {
			for _, e := range n.Endpoints {
				addrs = append(addrs, e.Addr())
			}
		}
		out[name] = addresses(addrs, z.TTL)
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

// soaRecord is the SOA of the zone without its owner name. Its TTL and its minimum are the TTL of all records, so that
// resolvers cache a negative answer no longer than a positive one.
func soaRecord(z *Config, serial uint32) []byte {
	mname, rname := "\x02ns\x03dns"+z.Domain, "\x0ahostmaster"+z.Domain
	b := wire.AppendRecordHeader(nil, 0, wire.TypeSOA, z.TTL, len(mname)+len(rname)+20)[2:]
	b = append(append(b, mname...), rname...)
	for _, v := range []uint32{serial, 7200, 1800, 86400, z.TTL} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}
