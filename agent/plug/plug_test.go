package plug

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
	"go.uber.org/goleak"
)

// fakeLinks behaves like veth.Kernel: names are unique, deleting nothing is no error. The package cni runs the same
// server over the real one.
type fakeLinks struct {
	mu    sync.Mutex
	links map[string]Link
	fail  error // of every Delete
}

func (f *fakeLinks) Exists(name string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.links[name]
	return ok, nil
}

func (f *fakeLinks) Delete(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	delete(f.links, name)
	return nil
}

func (f *fakeLinks) List() (out []Link, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.links {
		out = append(out, l)
	}
	return out, nil
}

func (f *fakeLinks) make(at api.Attachment, addrs ...netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := api.HostIfName(at)
	f.links[name] = Link{Name: name, Attachment: at, Pod: "shop/web", Addresses: addrs}
}

// rig is a server on a socket, with hands on all that it stands on.
type rig struct {
	*Server
	t       *testing.T
	links   *fakeLinks
	socket  string
	mu      sync.Mutex
	ready   string
	changes int
	added   []time.Duration
	clock   time.Time
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	pool, err := ipam.OpenPool(ipam.PoolConfig{Dir: dir, BootID: "b", Blocks: []netip.Prefix{netip.MustParsePrefix("10.42.7.0/28")}})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, links: &fakeLinks{links: map[string]Link{}}, socket: filepath.Join(dir, "s"), clock: time.Unix(1e9, 0)}
	r.Server = New(Config{Pool: pool, Links: r.links, MTU: func() int { return 1420 }, Table: 101, Protocol: 157,
		Ready:   func() string { r.mu.Lock(); defer r.mu.Unlock(); return r.ready },
		Changed: func() { r.mu.Lock(); defer r.mu.Unlock(); r.changes++ },
		Added:   func(took time.Duration) { r.mu.Lock(); defer r.mu.Unlock(); r.added = append(r.added, took) }})
	r.now = func() time.Time { r.mu.Lock(); defer r.mu.Unlock(); return r.clock }
	mux := http.NewServeMux()
	srv := &http.Server{Handler: mux}
	r.Attach(srv, mux)
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done; pool.Close() })
	return r
}

// plugin is one connection.
type plugin struct {
	r *rig
	c *http.Client
}

func (r *rig) plugin() *plugin {
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", r.socket) }, MaxConnsPerHost: 1}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &plugin{r, &http.Client{Transport: tr}}
}

func (p *plugin) hangUp() { p.c.CloseIdleConnections() }

// call returns the error's code, 0 for none.
func (p *plugin) call(path string, q, a any) (int, string) {
	p.r.t.Helper()
	body, err := json.Marshal(q)
	if err != nil {
		p.r.t.Fatal(err)
	}
	return p.raw(path, body, a)
}

func (p *plugin) raw(path string, body []byte, a any) (int, string) {
	p.r.t.Helper()
	method := "POST"
	if path == api.CNIStatusPath {
		method = "GET"
	}
	req, _ := http.NewRequest(method, "http://agent"+path, bytes.NewReader(body))
	resp, err := p.c.Do(req)
	if err != nil {
		return -1, err.Error()
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		var e api.Error
		if err := json.Unmarshal(raw, &e); err != nil {
			p.r.t.Fatalf("status %d with body %q", resp.StatusCode, raw)
		}
		return e.Code, e.Error()
	}
	if a != nil {
		if err := json.Unmarshal(raw, a); err != nil {
			p.r.t.Fatal(err)
		}
	}
	return 0, ""
}

func at(id string) api.Attachment { return api.Attachment{ContainerID: id, IfName: "eth0"} }

func (r *rig) plug(id string) netip.Addr {
	r.t.Helper()
	p := r.plugin()
	var a api.AddReply
	if code, msg := p.call(api.CNIAddPath, api.AddRequest{Attachment: at(id), Network: "podnet"}, &a); code != 0 {
		r.t.Fatal(msg)
	}
	r.links.make(at(id), a.Addresses...)
	if code, msg := p.call(api.CNICommitPath, api.CommitRequest{Attachment: at(id)}, nil); code != 0 {
		r.t.Fatal(msg)
	}
	p.hangUp()
	return a.Addresses[0]
}

func (r *rig) eventually(what string, cond func() bool) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatal("never came true: " + what)
		}
	}
}

func TestReservationDiesWithItsConnection(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("", func(t *testing.T) {
		r := newRig(t)
		p := r.plugin()
		if code, msg := p.call(api.CNIAddPath, api.AddRequest{Attachment: at("a")}, nil); code != 0 {
			t.Fatal(msg)
		}
		r.links.make(at("a"))
		if n := len(r.Pods()); n != 0 {
			t.Errorf("%d Pods before the commit", n)
		}
		p.hangUp()
		r.eventually("record and link are gone", func() bool {
			live, _ := r.links.Exists(api.HostIfName(at("a")))
			return len(r.Pool.Records()) == 0 && !live
		})
		r.plug("a")
		if n := len(r.Pods()); n != 1 || r.changes != 1 {
			t.Errorf("%d Pods, %d changes", n, r.changes)
		}
	})
}

func TestAnotherConnectionCannotCommit(t *testing.T) {
	r := newRig(t)
	p, q := r.plugin(), r.plugin()
	p.call(api.CNIAddPath, api.AddRequest{Attachment: at("a")}, nil)
	if code, _ := q.call(api.CNICommitPath, api.CommitRequest{Attachment: at("a")}, nil); code != api.CodeTryAgain {
		t.Errorf("code %d", code)
	}
	if code, _ := p.call(api.CNIAddPath, api.AddRequest{Attachment: at("b")}, nil); code == 0 {
		t.Error("one connection holds two reservations")
	}
	if code, msg := p.call(api.CNICommitPath, api.CommitRequest{Attachment: at("a")}, nil); code != 0 {
		t.Error(msg)
	}
}

func TestAddErrors(t *testing.T) {
	r := newRig(t)
	first := r.plug("a")
	for _, c := range []struct {
		name string
		body string
		code int
		want string
	}{
		{"attached", `{"containerID":"a","ifName":"eth0","network":"n","netns":"x","dns":{}}`, api.CodeAttached, "attached already"},
		{"held", `{"containerID":"b","ifName":"eth0","network":"n","netns":"x","dns":{},"ips":["` + first.String() + `"]}`, api.CodeHeld, "container a"},
		{"unknown field", `{"containerID":"b","ifName":"eth0","colour":"red"}`, api.CodeDecode, "colour"},
		{"two values", `{"containerID":"b","ifName":"eth0"} {}`, api.CodeDecode, "behind"},
		{"no JSON", `ADD`, api.CodeDecode, "invalid character"},
		{"too long", `{"containerID":"` + strings.Repeat("x", maxBody) + `"}`, api.CodeDecode, "too large"},
		{"no container", `{"ifName":"eth0"}`, api.CodeInternal, "needs a container id"},
	} {
		if code, msg := r.plugin().raw(api.CNIAddPath, []byte(c.body), nil); code != c.code || !strings.Contains(msg, c.want) {
			t.Errorf("%s: %d %s", c.name, code, msg)
		}
	}
	r.mu.Lock()
	r.ready = "no Pod CIDR yet"
	r.mu.Unlock()
	if code, msg := r.plugin().call(api.CNIAddPath, api.AddRequest{Attachment: at("b")}, nil); code != api.CodeTryAgain || !strings.Contains(msg, "no Pod CIDR yet") {
		t.Errorf("not ready: %d %s", code, msg)
	}
}

func TestStatusWaitsForARestart(t *testing.T) {
	r := newRig(t)
	ask := func() api.StatusReply {
		var s api.StatusReply
		if code, msg := r.plugin().call(api.CNIStatusPath, nil, &s); code != 0 {
			t.Fatal(msg)
		}
		return s
	}
	step := func(ready string, d time.Duration) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ready, r.clock = ready, r.clock.Add(d)
	}
	step("the tunnel is coming up", 0)
	if s := ask(); s.Code != 0 {
		t.Errorf("at first: %v", s)
	}
	step("the tunnel is coming up", DefaultGrace)
	if s := ask(); s.Code != api.CodeUnavailable || s.Reason != "the tunnel is coming up" {
		t.Errorf("after the grace: %v", s)
	}
	step("", time.Second)
	if s := ask(); s.Code != 0 {
		t.Errorf("ready again: %v", s)
	}
	for id := 'a'; id < 'a'+12; id++ {
		r.plug(string(id))
	}
	step("", time.Hour)
	if s := ask(); s.Code != 0 {
		t.Errorf("a full block: %v", s)
	}
}

func TestDeleteThatFailsKeepsTheAddress(t *testing.T) {
	r := newRig(t)
	r.plug("a")
	r.links.fail = errors.New("the kernel says no")
	if code, _ := r.plugin().call(api.CNIDelPath, api.DelRequest{Attachment: at("a")}, nil); code == 0 {
		t.Error("DEL succeeded")
	}
	if len(r.Pods()) != 1 {
		t.Error("the address was released while its interface may live")
	}
	r.links.fail = nil
	for range 2 {
		if code, msg := r.plugin().call(api.CNIDelPath, api.DelRequest{Attachment: at("a")}, nil); code != 0 {
			t.Error(msg)
		}
	}
	if code, _ := r.plugin().call(api.CNICheckPath, api.DelRequest{Attachment: at("a")}, nil); code != api.CodeUnknown {
		t.Errorf("CHECK after DEL: code %d", code)
	}
}

func TestGCCarriesOn(t *testing.T) {
	r := newRig(t)
	for _, id := range []string{"a", "b", "c"} {
		r.plug(id)
	}
	p := r.plugin()
	p.call(api.CNIAddPath, api.AddRequest{Attachment: at("d"), Network: "podnet"}, nil) // under way: not GC's
	var g api.GCReply
	if code, msg := r.plugin().call(api.CNIGCPath, api.GCRequest{Network: "podnet", Valid: []api.Attachment{at("b")}}, &g); code != 0 {
		t.Fatal(msg)
	}
	if !slices.Equal(g.Removed, []api.Attachment{at("a"), at("c")}) || len(r.Pool.Records()) != 2 {
		t.Errorf("removed %v, left %v", g.Removed, r.Pool.Records())
	}
}

func TestReconcile(t *testing.T) {
	r := newRig(t)
	gone, lost := r.plug("gone"), r.plug("lost")
	r.plug("fine")
	r.links.Delete(api.HostIfName(at("gone")))
	r.Pool.Release(at("lost"))
	if _, _, err := r.Pool.Reserve(ipam.Record{Attachment: at("half"), HostIfName: api.HostIfName(at("half"))}); err != nil {
		t.Fatal(err)
	}
	r.links.make(at("half"))
	r.links.links["wrnstranger"] = Link{Name: "wrnstranger"}
	p := r.plugin() // an ADD under way stays as it is
	p.call(api.CNIAddPath, api.AddRequest{Attachment: at("busy")}, nil)

	rep, err := r.Reconcile()
	if err != nil || len(rep.Released) != 1 || rep.Released[0].Addresses[0] != gone || len(rep.Undone) != 1 || rep.Undone[0].ContainerID != "half" ||
		len(rep.Adopted) != 1 || rep.Adopted[0].Addresses[0] != lost || len(rep.Strangers) != 1 {
		t.Errorf("%+v %v", rep, err)
	}
	delete(r.links.links, "wrnstranger")
	if rep, err := r.Reconcile(); err != nil || !rep.Empty() {
		t.Errorf("the second time: %+v %v", rep, err)
	}
	if code, msg := p.call(api.CNICommitPath, api.CommitRequest{Attachment: at("busy")}, nil); code != 0 {
		t.Error(msg)
	}
}

// An ADD that finds the pool full asks for room once, and says why there is none.
func TestFullPoolAsksForMore(t *testing.T) {
	r := newRig(t)
	for i := range 12 {
		r.plug(string(rune('a' + i)))
	}
	var asked int
	room := errors.New("the store is away")
	r.More = func(context.Context) error {
		asked++
		if room != nil {
			return room
		}
		return r.Pool.SetBlocks([]netip.Prefix{netip.MustParsePrefix("10.42.7.0/28"), netip.MustParsePrefix("10.42.9.0/28")})
	}
	code, msg := r.plugin().call(api.CNIAddPath, api.AddRequest{Attachment: at("z"), Network: "podnet"}, nil)
	if code != api.CodeFull || !strings.Contains(msg, "12 Pods") || !strings.Contains(msg, "the store is away") || asked != 1 {
		t.Errorf("code %d after %d requests for room: %s", code, asked, msg)
	}
	room = nil
	if a := r.plug("z"); a.String() != "10.42.9.3" {
		t.Errorf("with room: %v", a)
	}
}

// Each ADD is timed, from the plugin's connection to its commit; one that is given up is not.
func TestAddIsTimed(t *testing.T) {
	r := newRig(t)
	p := r.plugin()
	var a api.AddReply
	if code, msg := p.call(api.CNIAddPath, api.AddRequest{Attachment: at("timed"), Network: "podnet"}, &a); code != 0 {
		t.Fatal(msg)
	}
	r.mu.Lock()
	r.clock = r.clock.Add(30 * time.Millisecond)
	r.mu.Unlock()
	r.links.make(at("timed"), a.Addresses...)
	if code, msg := p.call(api.CNICommitPath, api.CommitRequest{Attachment: at("timed")}, nil); code != 0 {
		t.Fatal(msg)
	}
	q := r.plugin()
	if code, msg := q.call(api.CNIAddPath, api.AddRequest{Attachment: at("given up"), Network: "podnet"}, &a); code != 0 {
		t.Fatal(msg)
	}
	q.hangUp()
	p.hangUp()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.added, []time.Duration{30 * time.Millisecond}) {
		t.Errorf("ADDs took %v, expected one of 30ms", r.added)
	}
}
