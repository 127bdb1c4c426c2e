package announce

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	v4, v6           = netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("fd77::207")
	ownMAC, otherMAC = mac{2, 0, 0, 0, 0, 1}, mac{2, 0, 0, 0, 0, 2}
)

// Frames that this package sends parse to the observation that they stand for.
func TestFrames_EachAction_ParseBack(t *testing.T) {
	request4 := observation{mac: otherMAC, target: v4, requester: netip.MustParseAddr("192.0.2.9")}
	request6 := observation{mac: otherMAC, target: v6, requester: netip.MustParseAddr("fe80::9")}
	for _, tc := range []struct {
		name   string
		frames [][]byte
		want   observation
		to     mac
	}{
		{"ARP probe", frames(ownMAC, action{do: actProbe, addr: v4}), observation{mac: ownMAC, target: v4}, broadcast},
		{"ARP announcements", frames(ownMAC, action{do: actAnnounce, addr: v4}), observation{mac: ownMAC, claimed: v4}, broadcast},
		{"ARP answer", frames(ownMAC, action{do: actAnswer, addr: v4, request: request4}), observation{mac: ownMAC, claimed: v4}, otherMAC},
		{"ARP answer to a probe", frames(ownMAC, action{do: actAnswer, addr: v4, request: observation{mac: otherMAC, target: v4}}),
			observation{mac: ownMAC, claimed: v4}, otherMAC},
		{"DAD", frames(ownMAC, action{do: actProbe, addr: v6}), observation{mac: ownMAC, target: v6}, mac{0x33, 0x33, 0xff, 0, 2, 7}},
		{"unsolicited advertisement", frames(ownMAC, action{do: actAnnounce, addr: v6}), observation{mac: ownMAC, claimed: v6},
			mac{0x33, 0x33, 0, 0, 0, 1}},
		{"advertisement", frames(ownMAC, action{do: actAnswer, addr: v6, request: request6}), observation{mac: ownMAC, claimed: v6},
			otherMAC},
		{"advertisement to a probe", frames(ownMAC, action{do: actAnswer, addr: v6, request: observation{mac: otherMAC, target: v6}}),
			observation{mac: ownMAC, claimed: v6}, mac{0x33, 0x33, 0, 0, 0, 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, f := range tc.frames {
				got, ok := parseFrame(f)
				if !ok || got != tc.want || mac(f[:6]) != tc.to || mac(f[6:12]) != ownMAC {
					t.Errorf("%+v %v to %s, expected %+v to %s", got, ok, mac(f[:6]), tc.want, tc.to)
				}
			}
		})
	}
}

// Requests of hosts are parsed. Damaged messages, and messages that a router forwarded, are not.
func TestParseFrame_DamagedMessage_Refused(t *testing.T) {
	requester := netip.MustParseAddr("192.0.2.9")
	who := arpPacket{to: broadcast, operation: arpRequest, senderMAC: otherMAC, sender: requester, target: v4}.frame()
	if s, ok := parseFrame(who); !ok || s != (observation{mac: otherMAC, target: v4, requester: requester, claimed: requester}) {
		t.Errorf("who-has: %+v %v", s, ok)
	}
	solicit := neighborMessage{to: groupMAC(solicitedNode(v6)), from: otherMAC, src: netip.MustParseAddr("fe80::9"), dst: solicitedNode(v6),
		kind: ndSolicitation, target: v6, option: optSourceLinkAddress}.frame()
	if s, ok := parseFrame(solicit); !ok || s != (observation{mac: otherMAC, target: v6, requester: netip.MustParseAddr("fe80::9")}) {
		t.Errorf("solicitation: %+v %v", s, ok)
	}
	for i := range len(solicit) {
		if _, ok := parseFrame(solicit[:i]); ok {
			t.Errorf("a solicitation of %d bytes was accepted", i)
		}
	}
	damage := map[string]func(b []byte){
		"hop limit": func(b []byte) { b[etherLen+7] = 64 },
		"checksum":  func(b []byte) { b[len(b)-1]++ },
		"code":      func(b []byte) { b[etherLen+ipv6Len+1] = 1 },
		"option":    func(b []byte) { b[len(b)-7] = 0 },
		"group":     func(b []byte) { b[6] |= 1 },
		"version":   func(b []byte) { b[etherLen] = 0x40 },
	}
	for what, f := range damage {
		b := slices.Clone(solicit)
		if f(b); what == "option" {
			b[etherLen+ipv6Len+2], b[etherLen+ipv6Len+3] = 0, 0
			sum := checksum(netip.AddrFrom16([16]byte(b[22:38])), netip.AddrFrom16([16]byte(b[38:54])), b[54:])
			b[56], b[57] = byte(sum>>8), byte(sum)
		}
		if _, ok := parseFrame(b); ok {
			t.Errorf("accepted in spite of its %s", what)
		}
	}
}

func TestHeartbeat_EncodeDecode_Equal(t *testing.T) {
	b := heartbeat{started: 7, seq: 9, anyLink: true, macs: []mac{ownMAC, otherMAC},
		subnets: []netip.Prefix{simLAN, netip.MustParsePrefix("fd77::/64")},
		claims:  []claim{{v4, 1}, {v6, 1 << 60}}, total: 70}
	got, err := decodeHeartbeat(b.encode())
	if err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("%v\n%s", err, cmp.Diff(b, got, cmp.Exporter(func(reflect.Type) bool { return true })))
	}
	if len(b.encode()) > maxHeartbeatLen || maxHeartbeatLen > 1280-48 {
		t.Errorf("a heartbeat of %d bytes exceeds an MTU of 1280", maxHeartbeatLen)
	}
}

func FuzzParseFrame(f *testing.F) {
	for _, a := range []netip.Addr{v4, v6} {
		for _, do := range []act{actProbe, actAnnounce, actAnswer} {
			for _, b := range frames(ownMAC, action{do: do, addr: a, request: observation{mac: otherMAC, target: a, requester: a}}) {
				f.Add(b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := parseFrame(b)
		if !ok {
			return
		}
		badTarget := s.target.IsValid() && (s.mac == zeroMAC || s.target.IsMulticast() && s.target.Is6())
		if badTarget || s.requester.IsValid() && s.requester.IsUnspecified() {
			t.Errorf("%x parses to %+v", b, s)
		}
		if s.target.IsValid() && !s.target.IsUnspecified() { // every request can be answered, and the answer parses
			for _, r := range frames(ownMAC, action{do: actAnswer, addr: s.target, request: s}) {
				if got, ok := parseFrame(r); !ok || got.claimed != s.target {
					t.Errorf("the answer to %x does not parse: %+v %v", b, got, ok)
				}
			}
		}
	})
}

func FuzzDecodeHeartbeat(f *testing.F) {
	b := heartbeat{started: 7, seq: 9, macs: []mac{ownMAC}, subnets: []netip.Prefix{simLAN}, claims: []claim{{v4, 1}, {v6, 2}}, total: 2}
	f.Add(b.encode())
	f.Add([]byte(heartbeatMagic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := decodeHeartbeat(raw)
		if err != nil {
			return
		}
		if again, err := decodeHeartbeat(got.encode()); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%x: %+v becomes %+v (%v)", raw, got, again, err)
		}
	})
}
