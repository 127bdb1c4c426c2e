package veth

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Check returns a description of everything that is missing or different. The MAC of the Pod's end is not compared: a
// chained plugin may set it.
func (b *Builder) Check(s Spec) ([]string, error) {
	host, peer, bad, err := b.host.checkLink(s.HostIf)
	if host == 0 || err != nil {
		return bad, err
	}
	pod, back, podBad, err := b.pod.checkLink(s.PodIf)
	if err != nil {
		return nil, err
	}
	bad = append(bad, podBad...)
	if pod != 0 && (pod != peer || back != host) {
		bad = append(bad, fmt.Sprintf("%s and %s are not the two ends of one pair", s.HostIf, s.PodIf))
	}
	more, err := b.checkHost(s, host)
	bad = append(bad, more...)
	if err == nil && pod != 0 {
		more, err = b.checkPod(s, pod)
		bad = append(bad, more...)
	}
	return bad, err
}

func (s *socket) checkLink(name string) (index, peer int32, bad []string, err error) {
	m := getLink(name)
	err = s.do(m)
	if errors.Is(err, unix.ENODEV) {
		return 0, 0, []string{"interface " + name + " does not exist"}, nil
	}
	if err != nil {
		return 0, 0, nil, err
	}
	if binary.NativeEndian.Uint32(m.got[8:])&unix.IFF_UP == 0 {
		bad = append(bad, "interface "+name+" is down")
	}
	index, peer, err = pairIndexes(m.got)
	return index, peer, bad, err
}

func (b *Builder) checkHost(s Spec, index int32) (bad []string, err error) {
	for _, a := range s.Addresses {
		found := false
		err := b.host.routes(family(a), s.Table, func(r route) {
			found = found || (r.table == s.Table && r.oif == index && r.dst == netip.PrefixFrom(a, a.BitLen()))
		})
		if err != nil {
			return bad, err
		}
		if !found {
			bad = append(bad, fmt.Sprintf("route %s dev %s is missing from table %d", a, s.HostIf, s.Table))
		}
	}
	if have, err := b.host.addresses(index); s.has4() && err == nil && !slices.Contains(have, Gateway4) {
		bad = append(bad, fmt.Sprintf("address %s is missing from %s", Gateway4, s.HostIf))
	}
	ok, err := b.host.hasFilter(s, index)
	if err == nil && !ok {
		bad = append(bad, "the source filter of "+s.HostIf+" is missing or has another program")
	}
	return bad, err
}

// hasFilter reports whether the kernel runs the program of spoofFilter.
func (s *socket) hasFilter(spec Spec, index int32) (found bool, err error) {
	filter, err := spoofFilter(spec.Addresses)
	if err != nil {
		return false, err
	}
	want := filterBytes(filter)
	m := request("list filters of "+spec.HostIf, unix.RTM_GETTFILTER, unix.NLM_F_DUMP, tcmsg(index, 0, ingressParent, 0))
	err = s.dump(m, func(b []byte) {
		if len(b) < 20 {
			return
		}
		attrs(b[20:], func(typ uint16, v []byte) {
			if typ != unix.TCA_OPTIONS {
				return
			}
			attrs(v, func(typ uint16, v []byte) { found = found || typ == bpfOps && bytes.Equal(v, want) })
		})
	})
	if errors.Is(err, unix.EINVAL) { // the link has no clsact qdisc
		return false, nil
	}
	return found, err
}

func (b *Builder) checkPod(s Spec, index int32) (bad []string, err error) {
	have, err := b.pod.addresses(index)
	if err != nil {
		return nil, err
	}
	for _, a := range s.Addresses {
		if !slices.Contains(have, a) {
			bad = append(bad, fmt.Sprintf("address %s is missing from %s", a, s.PodIf))
		}
		found := false
		err := b.pod.routes(family(a), unix.RT_TABLE_MAIN, func(r route) {
			found = found || (r.table == unix.RT_TABLE_MAIN && r.oif == index && r.dst == Default(a) && r.gw == Gateway(a))
		})
		if err != nil {
			return bad, err
		}
		if !found {
			bad = append(bad, fmt.Sprintf("default route via %s is missing in the Pod", Gateway(a)))
		}
	}
	return bad, nil
}

// addresses lists an interface's addresses of both families.
func (s *socket) addresses(index int32) (out []netip.Addr, err error) {
	m := request("list addresses", unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg))
	err = s.dump(m, func(b []byte) {
		if len(b) < unix.SizeofIfAddrmsg || int32(binary.NativeEndian.Uint32(b[4:])) != index {
			return
		}
		attrs(b[unix.SizeofIfAddrmsg:], func(typ uint16, v []byte) {
			if a, ok := netip.AddrFromSlice(v); ok && typ == unix.IFA_ADDRESS {
				out = append(out, a)
			}
		})
	})
	return out, err
}
