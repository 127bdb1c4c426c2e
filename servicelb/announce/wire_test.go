package announce

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	v4, v6   = netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("fd77::207")
	us, them = mac{2, 0, 0, 0, 0, 1}, mac{2, 0, 0, 0, 0, 2}
)

// What we send is read back as what it means.
func TestFramesSayWhatTheyMean(t *testing.T) {
	ask4 := sighting{hw: them, asked: v4, asker: netip.MustParseAddr("192.0.2.9")}
	ask6 := sighting{hw: them, asked: v6, asker: netip.MustParseAddr("fe80::9")}
	for _, tc := range []struct {
		name   string
		frames [][]byte
		want   sighting
		to     mac
	}{
		{"ARP probe", frames(us, action{do: actProbe, addr: v4}), sighting{hw: us, asked: v4}, broadcast},
		{"ARP announcements", frames(us, action{do: actAnnounce, addr: v4}), sighting{hw: us, claimed: v4}, broadcast},
		{"ARP answer", frames(us, action{do: actAnswer, addr: v4, to: ask4}), sighting{hw: us, claimed: v4}, them},
		{"ARP answer to a probe", frames(us, action{do: actAnswer, addr: v4, to: sighting{hw: them, asked: v4}}), sighting{hw: us, claimed: v4}, them},
		{"DAD", frames(us, action{do: actProbe, addr: v6}), sighting{hw: us, asked: v6}, mac{0x33, 0x33, 0xff, 0, 2, 7}},
		{"unsolicited advertisement", frames(us, action{do: actAnnounce, addr: v6}), sighting{hw: us, claimed: v6}, mac{0x33, 0x33, 0, 0, 0, 1}},
		{"advertisement", frames(us, action{do: actAnswer, addr: v6, to: ask6}), sighting{hw: us, claimed: v6}, them},
		{"advertisement to a probe", frames(us, action{do: actAnswer, addr: v6, to: sighting{hw: them, asked: v6}}), sighting{hw: us, claimed: v6}, mac{0x33, 0x33, 0, 0, 0, 1}},
	} {
		for _, f := range tc.frames {
			got, ok := parseFrame(f)
			if !ok || got != tc.want || mac(f[:6]) != tc.to || mac(f[6:12]) != us {
				t.Errorf("%s: %+v %v to %s, expected %+v to %s", tc.name, got, ok, mac(f[:6]), tc.want, tc.to)
			}
		}
	}
}

// What a host asks is understood; what is damaged or came over a router is not.
func TestStrangeFrames(t *testing.T) {
	asker := netip.MustParseAddr("192.0.2.9")
	who := arp(broadcast, them, arpRequest, them, asker, nobody, v4)
	if s, ok := parseFrame(who); !ok || s != (sighting{hw: them, asked: v4, asker: asker, claimed: asker}) {
		t.Errorf("who-has: %+v %v", s, ok)
	}
	solicit := neighbour(groupMAC(solicitedNode(v6)), them, netip.MustParseAddr("fe80::9"), solicitedNode(v6), ndSolicit, 0, v6, optSource)
	if s, ok := parseFrame(solicit); !ok || s != (sighting{hw: them, asked: v6, asker: netip.MustParseAddr("fe80::9")}) {
		t.Errorf("solicitation: %+v %v", s, ok)
	}
	for i := range len(solicit) {
		if _, ok := parseFrame(solicit[:i]); ok {
			t.Errorf("a solicitation of %d bytes was taken", i)
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
			t.Errorf("taken in spite of its %s", what)
		}
	}
}

func TestBeatRoundTrip(t *testing.T) {
	b := beat{born: 7, seq: 9, any: true, macs: []mac{us, them}, subnets: []netip.Prefix{simLAN, netip.MustParsePrefix("fd77::/64")},
		claims: []claim{{v4, 1}, {v6, 1 << 60}}, total: 70}
	got, err := decodeBeat(b.encode())
	if err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("%v\n%s", err, cmp.Diff(b, got, cmp.Exporter(func(reflect.Type) bool { return true })))
	}
	if len(b.encode()) > maxBeat || maxBeat > 1280-48 {
		t.Errorf("a heartbeat of %d bytes does not fit any tunnel", maxBeat)
	}
}

func FuzzFrame(f *testing.F) {
	for _, a := range []netip.Addr{v4, v6} {
		for _, do := range []act{actProbe, actAnnounce, actAnswer} {
			for _, b := range frames(us, action{do: do, addr: a, to: sighting{hw: them, asked: a, asker: a}}) {
				f.Add(b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := parseFrame(b)
		if !ok {
			return
		}
		if s.hw == nobody && s.asked.IsValid() || s.asked.IsValid() && s.asked.IsMulticast() && s.asked.Is6() || s.asker.IsValid() && s.asker.IsUnspecified() {
			t.Errorf("%x is read as %+v", b, s)
		}
		if s.asked.IsValid() && !s.asked.IsUnspecified() { // whatever was asked can be answered, and the answer read
			for _, r := range frames(us, action{do: actAnswer, addr: s.asked, to: s}) {
				if got, ok := parseFrame(r); !ok || got.claimed != s.asked {
					t.Errorf("the answer to %x cannot be read: %+v %v", b, got, ok)
				}
			}
		}
	})
}

func FuzzBeat(f *testing.F) {
	b := beat{born: 7, seq: 9, macs: []mac{us}, subnets: []netip.Prefix{simLAN}, claims: []claim{{v4, 1}, {v6, 2}}, total: 2}
	f.Add(b.encode())
	f.Add([]byte(beatMagic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := decodeBeat(raw)
		if err != nil {
			return
		}
		if again, err := decodeBeat(got.encode()); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%x: %+v becomes %+v (%v)", raw, got, again, err)
		}
	})
}
