package cniserver

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

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/testutil"
	"github.com/warrennet/warren/ipam"
	"go.uber.org/goleak"
)

// fakeLinks behaves like veth.Kernel: names are unique, and deleting a missing interface is no error. The tests of
// package cni run the same server over veth.Kernel.
type fakeLinks struct {
	mu    sync.Mutex
	links map[string]veth.Link
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

func (f *fakeLinks) List() (out []veth.Link, err error) {
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
	f.links[name] = veth.Link{Name: name, Attachment: at, Pod: "shop/web", Addresses: addrs}
}

// rig is a server on a socket, with access to all of its dependencies.
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
	r := &rig{t: t, links: &fakeLinks{links: map[string]veth.Link{}}, socket: filepath.Join(dir, "s"), clock: time.Unix(1e9, 0)}
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
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", r.socket) },
		MaxConnsPerHost: 1}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &plugin{r, &http.Client{Transport: tr}}
}

func (p *plugin) disconnect() { p.c.CloseIdleConnections() }

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

func (r *rig) attach(id string) netip.Addr {
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
	p.disconnect()
	return a.Addresses[0]
}

func TestAdd_ConnectionEndsBeforeCommit_IsUndone(t *testing.T) {
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
		p.disconnect()
		testutil.EventuallyTrue(r.t, "record and link are gone", func() bool {
			live, _ := r.links.Exists(api.HostIfName(at("a")))
			return len(r.Pool.Records()) == 0 && !live
		})
		r.attach("a")
		if n := len(r.Pods()); n != 1 || r.changes != 1 {
			t.Errorf("%d Pods, %d changes", n, r.changes)
		}
	})
}

func TestCommit_OtherConnection_IsRefused(t *testing.T) {
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

func TestAdd_InvalidRequest_HasCodeAndReason(t *testing.T) {
	r := newRig(t)
	first := r.attach("a")
	for _, c := range []struct {
		name string
		body string
		code int
		want string
	}{
		{"attached", `{"containerID":"a","ifName":"eth0","network":"n","netns":"x","dns":{}}`, api.CodeAttached, "attached already"},
		{"held", `{"containerID":"b","ifName":"eth0","network":"n","netns":"x","dns":{},"ips":["` + first.String() + `"]}`, api.CodeHeld,
			"container a"},
		{"unknown field", `{"containerID":"b","ifName":"eth0","colour":"red"}`, api.CodeDecode, "colour"},
		{"two values", `{"containerID":"b","ifName":"eth0"} {}`, api.CodeDecode, "data after it"},
		{"no JSON", `ADD`, api.CodeDecode, "invalid character"},
		{"too long", `{"containerID":"` + strings.Repeat("x", maxBody) + `"}`, api.CodeDecode, "too large"},
		{"no container", `{"ifName":"eth0"}`, api.CodeInternal, "needs a container id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if code, msg := r.plugin().raw(api.CNIAddPath, []byte(c.body), nil); code != c.code || !strings.Contains(msg, c.want) {
				t.Errorf("code %d, %s; expected code %d and %q", code, msg, c.code, c.want)
			}
		})
	}
	r.mu.Lock()
	r.ready = "no Pod CIDR yet"
	r.mu.Unlock()
	if code, msg := r.plugin().call(api.CNIAddPath, api.AddRequest{Attachment: at("b")}, nil); code != api.CodeTryAgain ||
		!strings.Contains(msg, "no Pod CIDR yet") {
		t.Errorf("not ready: %d %s", code, msg)
	}
}

func TestStatus_NotReady_FailsAfterGrace(t *testing.T) {
	r := newRig(t)
	status := func() api.StatusReply {
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
	if s := status(); s.Code != 0 {
		t.Errorf("at first: %v", s)
	}
	step("the tunnel is coming up", DefaultGrace)
	if s := status(); s.Code != api.CodeUnavailable || s.Reason != "the tunnel is coming up" {
		t.Errorf("after the grace: %v", s)
	}
	step("", time.Second)
	if s := status(); s.Code != 0 {
		t.Errorf("ready again: %v", s)
	}
	for id := 'a'; id < 'a'+12; id++ {
		r.attach(string(id))
	}
	step("", time.Hour)
	if s := status(); s.Code != 0 {
		t.Errorf("a full block: %v", s)
	}
}

func TestDel_InterfaceCannotBeDeleted_KeepsRecord(t *testing.T) {
	r := newRig(t)
	r.attach("a")
	r.links.fail = errors.New("operation not permitted")
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

func TestGC_OneCallInProgress_RemovesOthers(t *testing.T) {
	r := newRig(t)
	for _, id := range []string{"a", "b", "c"} {
		r.attach(id)
	}
	p := r.plugin()
	p.call(api.CNIAddPath, api.AddRequest{Attachment: at("d"), Network: "podnet"}, nil) // in progress: GC must not remove it
	var g api.GCReply
	if code, msg := r.plugin().call(api.CNIGCPath, api.GCRequest{Network: "podnet", Valid: []api.Attachment{at("b")}}, &g); code != 0 {
		t.Fatal(msg)
	}
	if !slices.Equal(g.Removed, []api.Attachment{at("a"), at("c")}) || len(r.Pool.Records()) != 2 {
		t.Errorf("removed %v, left %v", g.Removed, r.Pool.Records())
	}
}

func TestReconcile_EachDifference_IsFixedOnce(t *testing.T) {
	r := newRig(t)
	gone, lost := r.attach("gone"), r.attach("lost")
	r.attach("fine")
	r.links.Delete(api.HostIfName(at("gone")))
	r.Pool.Release(at("lost"))
	if _, _, err := r.Pool.Reserve(ipam.Record{Attachment: at("half"), HostIfName: api.HostIfName(at("half"))}); err != nil {
		t.Fatal(err)
	}
	r.links.make(at("half"))
	r.links.links["wrnunknown"] = veth.Link{Name: "wrnunknown"}
	p := r.plugin() // an ADD in progress is not touched
	p.call(api.CNIAddPath, api.AddRequest{Attachment: at("busy")}, nil)

	rep, err := r.Reconcile()
	if err != nil || len(rep.Released) != 1 || rep.Released[0].Addresses[0] != gone || len(rep.Undone) != 1 ||
		rep.Undone[0].ContainerID != "half" ||
		len(rep.Adopted) != 1 || rep.Adopted[0].Addresses[0] != lost || len(rep.Unknown) != 1 {
		t.Errorf("%+v %v", rep, err)
	}
	delete(r.links.links, "wrnunknown")
	if rep, err := r.Reconcile(); err != nil || !rep.Empty() {
		t.Errorf("the second time: %+v %v", rep, err)
	}
	if code, msg := p.call(api.CNICommitPath, api.CommitRequest{Attachment: at("busy")}, nil); code != 0 {
		t.Error(msg)
	}
}

// An ADD that finds the pool full requests another block once, and reports why there is none.
func TestAdd_PoolFull_RequestsAnotherBlock(t *testing.T) {
	r := newRig(t)
	for i := range 12 {
		r.attach(string(rune('a' + i)))
	}
	var requested int
	room := errors.New("the store is unreachable")
	r.More = func(context.Context) error {
		requested++
		if room != nil {
			return room
		}
		return r.Pool.SetBlocks([]netip.Prefix{netip.MustParsePrefix("10.42.7.0/28"), netip.MustParsePrefix("10.42.9.0/28")})
	}
	code, msg := r.plugin().call(api.CNIAddPath, api.AddRequest{Attachment: at("z"), Network: "podnet"}, nil)
	if code != api.CodeFull || !strings.Contains(msg, "12 Pods") || !strings.Contains(msg, "the store is unreachable") || requested != 1 {
		t.Errorf("code %d after %d requests for room: %s", code, requested, msg)
	}
	room = nil
	if a := r.attach("z"); a.String() != "10.42.9.3" {
		t.Errorf("with room: %v", a)
	}
}

// The duration of an ADD is reported from the plugin's connection to its commit. An ADD without commit is not reported.
func TestAdd_Commit_ReportsDuration(t *testing.T) {
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
	if code, msg := q.call(api.CNIAddPath, api.AddRequest{Attachment: at("not committed"), Network: "podnet"}, &a); code != 0 {
		t.Fatal(msg)
	}
	q.disconnect()
	p.disconnect()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.added, []time.Duration{30 * time.Millisecond}) {
		t.Errorf("ADDs took %v, expected one of 30ms", r.added)
	}
}
