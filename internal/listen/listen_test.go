package listen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/warrennet/warren/internal/testutil"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keeper is a service manager's store. It duplicates descriptors as sending them does.
type keeper struct {
	t    *testing.T
	mu   sync.Mutex
	kept map[string]int
}

func newKeeper(t *testing.T) *keeper {
	k := &keeper{t: t, kept: map[string]int{}}
	t.Cleanup(func() {
		for name := range k.kept {
			_ = k.Remove(name)
		}
	})
	return k
}

func (k *keeper) Store(name string, fd int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.kept[name]; ok || strings.ContainsAny(name, ": \n") {
		k.t.Errorf("stored %q twice, or the name is invalid", name)
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	k.kept[name] = dup
	return err
}

func (k *keeper) Remove(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer delete(k.kept, name)
	return unix.Close(k.kept[name])
}

// inherit is what the next process receives.
func (k *keeper) inherit() map[string]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[string]int{}
	for name, fd := range k.kept {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			k.t.Fatal(err)
		}
		out[name] = dup
	}
	return out
}

func listenTCP(t *testing.T, at string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// sockets are closed at the end of the test.
func sockets(t *testing.T, c Config) *Sockets {
	s := New(c)
	t.Cleanup(func() { s.Close() })
	return s
}

func get(at string) (string, error) {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get("http://" + at + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// A port that another process has is reported with that process, and served once it is free.
func TestServeHTTP_PortTaken_ReportedThenServed(t *testing.T) {
	other := listenTCP(t, "127.0.0.1:0")
	at := other.Addr().String()
	s := sockets(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServeHTTP(ctx, "metrics", Socket{Role: "metrics", Network: "tcp", Address: at}, func() *http.Server {
			return &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "served") })}
		})
	}()
	defer func() { cancel(); <-done }()
	testutil.EventuallyTrue(t, "the problem", func() bool { return len(s.Problems()) == 1 })
	for _, part := range []string{"metrics: ", at, "address already in use", fmt.Sprintf("process %d (", os.Getpid()),
		fmt.Sprintf("user id %d", os.Getuid()), "retrying"} {
		if !strings.Contains(s.Problem("metrics"), part) {
			t.Errorf("problem %q, expected %q in it", s.Problem("metrics"), part)
		}
	}
	other.Close()
	testutil.Eventually(t, "the server", func() error {
		if out, err := get(at); err != nil || out != "served" {
			return fmt.Errorf("%q %w", out, err)
		}
		if p := s.Problems(); len(p) != 0 {
			return fmt.Errorf("problems %q", p)
		}
		return nil
	})
}

// A part without a problem is tried again at once, and the problem of another part stays.
func TestRun_ServeFailsThenWorks_ProblemIsThatOfThePart(t *testing.T) {
	s := sockets(t, Config{})
	s.Report("other", errors.New("broken"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := 0
	s.Run(ctx, "dns", func(_ context.Context, up func()) error {
		switch calls++; calls {
		case 1:
			return errors.New("first")
		case 2:
			if got := s.Problems(); !slices.Equal(got, []string{"dns: first; retrying", "other: broken; retrying"}) {
				t.Errorf("after a failure: %q", got)
			}
			up()
			if got := s.Problems(); !slices.Equal(got, []string{"other: broken; retrying"}) {
				t.Errorf("after up: %q", got)
			}
			return nil
		}
		cancel()
		return errors.New("ended with the context")
	})
	if calls != 3 || s.Problem("dns") != "" {
		t.Errorf("%d calls, problem %q", calls, s.Problem("dns"))
	}
}

// The socket stays open while no server uses it: no other process can bind the port, and what arrives meanwhile is served later.
func TestSockets_ServerEnds_PortStaysTaken(t *testing.T) {
	s := sockets(t, Config{})
	free := listenTCP(t, "127.0.0.1:0")
	k := Socket{Role: "r", Network: "tcp4", Address: free.Addr().String()}
	free.Close()
	for i := range 3 {
		l, err := s.Listen(t.Context(), k)
		if err != nil {
			t.Fatalf("use %d: %v", i, err)
		}
		l.Close()
		if other, err := net.Listen("tcp", k.Address); err == nil {
			other.Close()
			t.Fatal("the port was free between two servers")
		}
	}
	client, err := net.Dial("tcp", k.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	l, err := s.Listen(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// The next process uses the sockets that the keeper has: the port is never free, and a datagram that arrived meanwhile is received.
func TestSockets_Restart_KeeperPassesThemOn(t *testing.T) {
	k := newKeeper(t)
	probe, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp := Socket{Role: "tunnel", Network: "udp4", Address: probe.LocalAddr().String()}
	probe.Close()
	free := listenTCP(t, "[::1]:0")
	tcp := Socket{Role: "metrics", Network: "tcp", Address: free.Addr().String()}
	free.Close()
	old := Socket{Role: "removed", Network: "udp4", Address: "127.0.0.1:0"}

	first := New(Config{Keeper: k})
	for _, x := range []Socket{udp, tcp, old} {
		if err := first.Hold(t.Context(), x); err != nil {
			t.Fatal(err)
		}
	}
	first.Close()
	if c, err := net.ListenPacket("udp4", udp.Address); err == nil {
		c.Close()
		t.Fatal("the port is free while no process runs")
	}
	client, err := net.Dial("udp4", udp.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("early")); err != nil {
		t.Fatal(err)
	}

	second := sockets(t, Config{Keeper: k, Inherited: k.inherit()})
	second.KeepRoles("tunnel", "metrics")
	options := 0
	udp.Options = func(int) error { options++; return nil }
	c, err := second.Packet(t.Context(), udp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 10)
	n, _, err := c.ReadFromUDPAddrPort(buf)
	if err != nil || string(buf[:n]) != "early" || options != 1 {
		t.Errorf("received %q, %v; options set %d times", buf[:n], err, options)
	}
	l, err := second.Listen(t.Context(), tcp)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if len(k.kept) != 2 {
		t.Errorf("the keeper has %v, expected the sockets of two roles", k.kept)
	}
	// Another address of the role: the former socket is closed everywhere.
	second.Keep("metrics")
	again := listenTCP(t, tcp.Address)
	again.Close()
}

// A descriptor that is not the socket is replaced.
func TestSockets_InheritedDescriptorOfOtherKind_OpenedAgain(t *testing.T) {
	k := newKeeper(t)
	free := listenTCP(t, "127.0.0.1:0")
	tcp := Socket{Role: "r", Network: "tcp4", Address: free.Addr().String()}
	free.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Store(tcp.name(), fd); err != nil {
		t.Fatal(err)
	}
	s := sockets(t, Config{Keeper: k, Inherited: map[string]int{tcp.name(): fd}})
	l, err := s.Listen(t.Context(), tcp)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// The holder of a port is found for a socket on all addresses, too.
func TestReport_PortOfAllAddressesTaken_NamesTheProcess(t *testing.T) {
	other, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	s := sockets(t, Config{})
	_, port, _ := net.SplitHostPort(other.LocalAddr().String())
	s.Report("tunnel", s.Hold(t.Context(), Socket{Role: "wireguard", Network: "udp4", Address: ":" + port}))
	if p := s.Problem("tunnel"); !strings.Contains(p, ":"+port) || !strings.Contains(p, fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("problem %q, expected port %s and process %d", p, port, os.Getpid())
	}
}

func TestConflicting_LinesOfProcNet_FindsTheHolder(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:254F 00000000:0000 0A 00000000:00000000 00:00000000 00000000 65534        0 100 1
   1: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 200 2
   2: 0200000A:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 300 2
`
	const table6 = `  sl  local_address remote_address st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0  1000        0 400 1
   1: 00000000000000000000000000000000:0051 00000000000000000000000000000000:0000 0A 0:0 00:0 0  1001        0 500 1
`
	for _, c := range []struct {
		table, want string
		own         uint64
		inode       uint64
		user        string
	}{
		{table, "127.0.0.1:9551", 0, 100, "65534"},
		{table, "127.0.0.2:9551", 0, 0, ""},
		{table, "0.0.0.0:9551", 0, 100, "65534"},
		{table, "10.43.0.10:53", 0, 200, "101"},
		{table, "10.0.0.2:53", 200, 300, "0"},
		{table, "10.43.0.10:53", 200, 0, ""},
		{table6, "[::1]:80", 0, 400, "1000"},
		{table6, "10.0.0.1:81", 0, 500, "1001"},
		{"short line\n", "10.0.0.1:81", 0, 0, ""},
	} {
		t.Run(c.want, func(t *testing.T) {
			inode, user := conflicting(strings.NewReader(c.table), netip.MustParseAddrPort(c.want), map[uint64]bool{c.own: true})
			if inode != c.inode || user != c.user {
				t.Errorf("inode %d of user %q, expected %d of %q", inode, user, c.inode, c.user)
			}
		})
	}
}
