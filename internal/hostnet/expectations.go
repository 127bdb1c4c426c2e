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

// LocalPort is a port of 127.0.0.1 that warren0 serves.
type LocalPort struct {
	Proto uint8 // IPPROTO_TCP or IPPROTO_UDP
	Port  uint16
}

// The kubelet installs a firewall rule that drops packets to 127/8 from any other address, unless connection tracking has
// marked them RELATED, ESTABLISHED or DNAT. With kube-proxy, a client that is bound to another address of the node passes,
// because its packets are DNAT. Warren installs no netfilter rule. It adds permanent expectations to connection tracking
// (ctnetlink), so that such connections are RELATED. Nothing is translated, and without such a firewall nothing changes.
//
// An expectation needs a master connection with a helper. The master is an entry for a connection that does not exist,
// from expectSource; the helper does nothing. Both expire after expectFor.
const (
	expectFor   = 5 * time.Minute
	renewExpect = time.Minute // another program may flush the table
)

var (
	loopback     = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	expectSource = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, Protocol}), Protocol)
	helpers      = map[uint8]string{unix.IPPROTO_TCP: "ftp", unix.IPPROTO_UDP: "tftp"}
)

// expectations holds which ports have an expectation. It is guarded by Host.mu.
type expectations struct {
	renewed map[LocalPort]time.Time
	logged  bool // that the kernel refuses expectations
}

// set adds or renews the expectations for the wanted ports and removes the others. A kernel that refuses them is logged
// once and is no error: only clients on nodes with that firewall rule are affected.
func (e *expectations) set(want []LocalPort, log *slog.Logger) {
	if e.renewed == nil {
		e.renewed = map[LocalPort]time.Time{}
	}
	wanted := map[LocalPort]bool{}
	for _, p := range want {
		if helpers[p.Proto] == "" {
			continue
		}
		wanted[p] = true
		if time.Since(e.renewed[p]) < renewExpect {
			continue
		}
		if err := expect(p); err != nil && !e.logged {
			log.Warn("connection tracking refuses expectations; "+
				"behind the kubelet's firewall, host ports on 127.0.0.1 are unreachable from the node's other addresses", "err", err)
			e.logged = true
		}
		e.renewed[p] = time.Now()
	}
	for p := range e.renewed {
		if !wanted[p] {
			_ = sendConntrack(unix.NFNL_SUBSYS_CTNETLINK, nl.IPCTNL_MSG_CT_DELETE, 0, master(p, nl.CTA_TUPLE_ORIG)) // or it has expired
			delete(e.renewed, p)
		}
	}
}

// Numbers of linux/netfilter/nfnetlink_conntrack.h that package nl does not have.
const (
	ctaHelp         = 5 // CTA_HELP
	ctaHelpName     = 1 // CTA_HELP_NAME
	ctaExpectMaster = 1 // CTA_EXPECT_MASTER
	ctaExpectTuple  = 2 // CTA_EXPECT_TUPLE
	ctaExpectMask   = 3 // CTA_EXPECT_MASK
	ctaExpectTime   = 4 // CTA_EXPECT_TIMEOUT
	ctaExpectFlags  = 8 // CTA_EXPECT_FLAGS

	expectPermanent = 1           // NF_CT_EXPECT_PERMANENT
	statusAssured   = 1<<2 | 1<<3 // IPS_ASSURED needs IPS_CONFIRMED
	nested          = unix.NLA_F_NESTED
)

// expect creates the master and its expectation, or renews both.
func expect(p LocalPort) error {
	help := nl.NewRtAttr(nested|ctaHelp, nil)
	help.AddRtAttr(ctaHelpName, append([]byte(helpers[p.Proto]), 0))
	entry := []*nl.RtAttr{master(p, nl.CTA_TUPLE_ORIG), tuple(nl.CTA_TUPLE_REPLY, netip.AddrPortFrom(loopback, p.Port), expectSource,
		p.Proto),
		nl.NewRtAttr(nl.CTA_STATUS, be32(statusAssured)), seconds(nl.CTA_TIMEOUT), help}
	if p.Proto == unix.IPPROTO_TCP {
		info := nl.NewRtAttr(nested|nl.CTA_PROTOINFO, nil)
		info.AddRtAttr(nested|nl.CTA_PROTOINFO_TCP, nil).AddRtAttr(nl.CTA_PROTOINFO_TCP_STATE, []byte{nl.TCP_CONNTRACK_ESTABLISHED})
		entry = append(entry, info)
	}
	err := sendConntrack(unix.NFNL_SUBSYS_CTNETLINK, nl.IPCTNL_MSG_CT_NEW, unix.NLM_F_CREATE|unix.NLM_F_EXCL, entry...)
	if errors.Is(err, unix.EEXIST) {
		err = sendConntrack(unix.NFNL_SUBSYS_CTNETLINK, nl.IPCTNL_MSG_CT_NEW, 0, master(p, nl.CTA_TUPLE_ORIG), seconds(nl.CTA_TIMEOUT))
	}
	if err != nil {
		return err
	}
	anySource := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	exact := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 0xffff)
	// IPCTNL_MSG_EXP_NEW has the same number as IPCTNL_MSG_CT_NEW.
	return sendConntrack(unix.NFNL_SUBSYS_CTNETLINK_EXP, nl.IPCTNL_MSG_CT_NEW, unix.NLM_F_CREATE, master(p, ctaExpectMaster),
		tuple(ctaExpectTuple, anySource, netip.AddrPortFrom(loopback, p.Port), p.Proto), tuple(ctaExpectMask, anySource, exact, p.Proto),
		seconds(ctaExpectTime), nl.NewRtAttr(ctaExpectFlags, be32(expectPermanent)))
}

// master is the original direction of the master connection, as attribute attr.
func master(p LocalPort, attr int) *nl.RtAttr {
	return tuple(attr, expectSource, netip.AddrPortFrom(loopback, p.Port), p.Proto)
}

// tuple holds CTA_TUPLE_IP and CTA_TUPLE_PROTO of one direction.
func tuple(attr int, src, dst netip.AddrPort, proto uint8) *nl.RtAttr {
	t := nl.NewRtAttr(nested|attr, nil)
	ip := t.AddRtAttr(nested|nl.CTA_TUPLE_IP, nil)
	ip.AddRtAttr(nl.CTA_IP_V4_SRC, src.Addr().AsSlice())
	ip.AddRtAttr(nl.CTA_IP_V4_DST, dst.Addr().AsSlice())
	ports := t.AddRtAttr(nested|nl.CTA_TUPLE_PROTO, nil)
	ports.AddRtAttr(nl.CTA_PROTO_NUM, []byte{proto})
	ports.AddRtAttr(nl.CTA_PROTO_SRC_PORT, binary.BigEndian.AppendUint16(nil, src.Port()))
	ports.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, dst.Port()))
	return t
}

func seconds(attr int) *nl.RtAttr { return nl.NewRtAttr(attr, be32(uint32(expectFor.Seconds()))) }

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// sendConntrack sends one request about IPv4 connections and waits for its acknowledgement.
func sendConntrack(subsystem, message, flags int, attrs ...*nl.RtAttr) error {
	r := nl.NewNetlinkRequest(subsystem<<8|message, flags|unix.NLM_F_ACK)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	for _, a := range attrs {
		r.AddData(a)
	}
	_, err := r.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}
