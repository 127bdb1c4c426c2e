package extpeers

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
)

const key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="

func laptop() api.ExternalPeer {
	return api.ExternalPeer{Name: "laptop", PublicKey: key, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.99.0.5/32")},
		Keepalive: 25}
}

func TestStore_PutThenOpen_PeersSurvive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second one replaces the first
		if err := s.Put(laptop()); err != nil {
			t.Fatal(err)
		}
	}
	if s, err = Open(path); err != nil || len(s.List()) != 1 || len(s.Peers()) != 1 || s.Peers()[0].Name != "laptop" {
		t.Fatalf("%v %v", s, err)
	}
	if err := s.Delete("other"); !errors.Is(err, ErrUnknown) {
		t.Errorf("delete an unknown key: %v", err)
	}
	if err := s.Delete(key); err != nil || len(s.List()) != 0 {
		t.Errorf("%v %v", s.List(), err)
	}
}

func TestValidate_InvalidFields_ReportsEach(t *testing.T) {
	blocks := []model.Block{{CIDR: netip.MustParsePrefix("10.42.1.0/24"), Node: "n1"}}
	if err := Validate(laptop(), blocks); err != nil {
		t.Errorf("valid peer: %v", err)
	}
	p := api.ExternalPeer{PublicKey: "x", Keepalive: -1, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}}
	err := Validate(p, blocks)
	for _, field := range []string{"publicKey", "name", "keepalive", "10.42.1.0/24 of node n1"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("no problem about %s in %v", field, err)
		}
	}
}
