package hostnet

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// LocalPort is a port of 127.0.0.1 that is served through the TUN.
type LocalPort struct {
	Proto uint8 // 6 or 17
	Port  uint16
}

// A kubelet keeps a firewall rule that drops what goes to 127/8 from any other address, unless connection tracking calls
// it RELATED, ESTABLISHED or DNAT. With a DNAT rule a client that is bound to another address of the node is of the
// latter kind. warren has no rules; it tells connection tracking to expect such connections (ctnetlink's permanent
// expectations), which makes them RELATED. Nothing is translated, and where no firewall looks, nothing changes.
//
// Expectations hang on an entry that stands for nothing, from expectSource, with a helper whose only use is that the
// kernel demands one. Both end by themselves after expectFor.
const (
	expectFor   = 5 * time.Minute
	expectAgain = time.Minute // somebody may flush the table
)

var (
	loopback     = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	expectSource = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, Protocol}), Protocol)
	helpers      = map[uint8]string{unix.IPPROTO_TCP: "ftp", unix.IPPROTO_UDP: "tftp"}
)

// expectations remembers which ports were told, and when.
type expectations struct {
	told map[LocalPort]time.Time
	said bool // that the kernel cannot
}

// set tells connection tracking about the wanted ports and takes back the others. A kernel that cannot is no error: one
// kind of client is refused then, on nodes with that firewall rule.
func (e *expectations) set(want []LocalPort, log *slog.Logger) {
	if e.told == nil {
		e.told = map[LocalPort]time.Time{}
	}
	wanted := map[LocalPort]bool{}
	for _, p := range want {
		if wanted[p] = helpers[p.Proto] != ""; !wanted[p] || time.Since(e.told[p]) < expectAgain {
			continue
		}
		if err := expect(p); err != nil {
			if !e.said {
				log.Warn("connection tracking takes no expectations; where a kubelet guards 127.0.0.1, hostPorts on it cannot be opened from the node's other addresses", "err", err)
			}
			e.said = true
		}
		e.told[p] = time.Now()
	}
	for p := range e.told {
		if !wanted[p] {
			_ = conntrack(unix.NFNL_SUBSYS_CTNETLINK, ctDelete, 0, placeholder(p, ctaOrig)) // or it ended by itself
			delete(e.told, p)
		}
	}
}

// Messages and attributes of ctnetlink (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctNew, ctDelete = 0, 2

	ctaOrig, ctaReply, ctaStatus, ctaProtoinfo, ctaHelp, ctaTimeout           = 1, 2, 3, 4, 5, 7
	ctaExpectMaster, ctaExpectTuple, ctaExpectMask, ctaExpectTime, ctaExpFlag = 1, 2, 3, 4, 8

	statusAssured   = 1<<2 | 1<<3 // ASSURED needs CONFIRMED, which is set with it
	expectPermanent = 1
	tcpEstablished  = 3
	nested          = unix.NLA_F_NESTED
)

// expect makes the placeholder and its expectation, or gives both their full time again.
func expect(p LocalPort) error {
	help := nl.NewRtAttr(nested|ctaHelp, nil)
	help.AddRtAttr(1, append([]byte(helpers[p.Proto]), 0))
	entry := []*nl.RtAttr{placeholder(p, ctaOrig), tuple(ctaReply, netip.AddrPortFrom(loopback, p.Port), expectSource, p.Proto),
		nl.NewRtAttr(ctaStatus, be32(statusAssured)), seconds(ctaTimeout), help}
	if p.Proto == unix.IPPROTO_TCP {
		info := nl.NewRtAttr(nested|ctaProtoinfo, nil)
		info.AddRtAttr(nested|1, nil).AddRtAttr(1, []byte{tcpEstablished})
		entry = append(entry, info)
	}
	err := conntrack(unix.NFNL_SUBSYS_CTNETLINK, ctNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, entry...)
	if errors.Is(err, unix.EEXIST) {
		err = conntrack(unix.NFNL_SUBSYS_CTNETLINK, ctNew, 0, placeholder(p, ctaOrig), seconds(ctaTimeout))
	}
	if err != nil {
		return err
	}
	anywhere := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	all := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 0xffff)
	return conntrack(unix.NFNL_SUBSYS_CTNETLINK_EXP, ctNew, unix.NLM_F_CREATE, placeholder(p, ctaExpectMaster),
		tuple(ctaExpectTuple, anywhere, netip.AddrPortFrom(loopback, p.Port), p.Proto), tuple(ctaExpectMask, anywhere, all, p.Proto),
		seconds(ctaExpectTime), nl.NewRtAttr(ctaExpFlag, be32(expectPermanent)))
}

func placeholder(p LocalPort, attr int) *nl.RtAttr {
	return tuple(attr, expectSource, netip.AddrPortFrom(loopback, p.Port), p.Proto)
}

// tuple is CTA_TUPLE_IP and CTA_TUPLE_PROTO of one direction.
func tuple(attr int, src, dst netip.AddrPort, proto uint8) *nl.RtAttr {
	t := nl.NewRtAttr(nested|attr, nil)
	ip := t.AddRtAttr(nested|1, nil)
	ip.AddRtAttr(1, src.Addr().AsSlice())
	ip.AddRtAttr(2, dst.Addr().AsSlice())
	ports := t.AddRtAttr(nested|2, nil)
	ports.AddRtAttr(1, []byte{proto})
	ports.AddRtAttr(2, binary.BigEndian.AppendUint16(nil, src.Port()))
	ports.AddRtAttr(3, binary.BigEndian.AppendUint16(nil, dst.Port()))
	return t
}

func seconds(attr int) *nl.RtAttr { return nl.NewRtAttr(attr, be32(uint32(expectFor.Seconds()))) }

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// nfgenmsg is the header of nfnetlink messages: family, version, resource.
type nfgenmsg struct{ family byte }

func (nfgenmsg) Len() int            { return 4 }
func (m nfgenmsg) Serialize() []byte { return []byte{m.family, 0, 0, 0} }

func conntrack(subsys, msg, flags int, attrs ...*nl.RtAttr) error {
	r := nl.NewNetlinkRequest(subsys<<8|msg, flags|unix.NLM_F_ACK)
	r.AddData(nfgenmsg{unix.AF_INET})
	for _, a := range attrs {
		r.AddData(a)
	}
	_, err := r.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}
