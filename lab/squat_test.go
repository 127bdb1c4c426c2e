package lab

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
	"golang.org/x/sys/unix"
)

// squatter is the user id of sockets that squat opens.
const squatter = 65534

// squat opens a socket on a machine as an unprivileged process does; Close frees its port.
func squat(t *testing.T, l *Lab, machine, network, address string) (held io.Closer) {
	t.Helper()
	pid, err := l.hold(machine)
	if err == nil {
		err = inside(pid, func() error {
			// The user of a socket is the file system user of the thread that creates it, and the thread ends with this function.
			if err := syscall.Setfsuid(squatter); err != nil {
				return err
			}
			var err error
			if network == "tcp" {
				held, err = net.Listen(network, address)
			} else {
				held, err = net.ListenPacket(network, address)
			}
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { held.Close() })
	return held
}

// Another process has a port when the agent starts. The agent runs and reports the address and the process, Pods of the node reach each
// other, and everything works once the port is free. (The port of the tunnel is needed for CNI ADD; the others are not.)
func TestAgent_PortTakenByAnotherProcess_ReportedAndServedLater(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	pods := onePodEach(t, l)
	near := run(t, l, "n1", "near")
	st, err := l.Status(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	podNet := st.PodCIDRs[0].Addr().Next()
	for _, c := range []struct {
		name, network, address string
		reported               string // address in the problem
		part                   string
		ready                  bool
		works                  func() error // what does not while the port is taken
	}{
		{"metrics", "tcp", "127.0.0.1:9551", "127.0.0.1:9551", "metrics", true, func() error {
			return succeeds(l, "n1", "curl -sS --max-time 2 127.0.0.1:9551/metrics | grep ^warren_ready")
		}},
		{"tunnel", "udp", "0.0.0.0:51820", ":51820", "tunnel", false, func() error {
			_, err := calls(l, pods[0], pods[1].Addresses[0])
			return err
		}},
		{"heartbeats", "udp", netip.AddrPortFrom(podNet, 9552).String(), netip.AddrPortFrom(podNet, 9552).String(),
			"load balancer heartbeats", true, func() error {
				return succeeds(l, "n1", fmt.Sprintf("ss -Hlun src %s sport 9552 | grep .", podNet))
			}},
		{"DNS", "udp", "0.0.0.0:53", "10.43.0.10:53", "cluster DNS", true, func() error { return digs(l, pods[0], "+notcp") }},
		{"DNS over TCP", "tcp", "0.0.0.0:53", "10.43.0.10:53", "cluster DNS", true, func() error { return digs(l, pods[0], "+tcp") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := l.StopAgent("n1", syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			held := squat(t, l, "n1", c.network, c.address)
			if err := l.StartAgent("n1"); err != nil {
				t.Fatal(err)
			}
			agent := l.Pid("n1", "agent")
			testutil.Eventually(t, "the problem", func() error {
				return reportsSocket(t, l, c.part, c.reported, c.ready)
			})
			if _, err := calls(l, near, pods[0].Addresses[0]); err != nil {
				t.Errorf("Pods of the node do not reach each other: %v", err)
			}
			held.Close()
			testutil.Eventually(t, "recovery after the port is free", func() error {
				st, err := l.Status(t.Context(), "n1")
				if err != nil || !st.Ready || strings.Contains(fmt.Sprint(st.Problems), "cannot open") ||
					strings.Contains(fmt.Sprint(st.Problems), c.part+": ") {
					return fmt.Errorf("ready %v, problems %q, %w", st.Ready, st.Problems, err)
				}
				return c.works()
			})
			if now := l.Pid("n1", "agent"); now != agent {
				t.Errorf("the agent is process %d, expected that it runs on as %d", now, agent)
			}
			mustCall(t, l, pods[1], pods[0])
		})
	}
}

// reportsSocket checks that the status has a problem with the part, the address and the process that has it, and that the node is
// ready or not.
func reportsSocket(t *testing.T, l *Lab, part, address string, ready bool) error {
	st, err := l.Status(t.Context(), "n1")
	if err != nil {
		return err
	}
	for _, p := range st.Problems {
		if strings.HasPrefix(p, part+": ") && strings.Contains(p, address) &&
			strings.Contains(p, fmt.Sprintf("process %d (", os.Getpid())) && strings.Contains(p, fmt.Sprint("user id ", squatter)) {
			if st.Ready == ready {
				return nil
			}
			return fmt.Errorf("ready %v, expected %v: %q", st.Ready, ready, st.Problems)
		}
	}
	return fmt.Errorf("no problem with %s, %s and the process: %q", part, address, st.Problems)
}

// succeeds runs a shell command on a machine.
func succeeds(l *Lab, machine, command string) error {
	out, err := l.Output(machine, "sh", "-c", command)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// digs resolves a name of the cluster from a Pod.
func digs(l *Lab, p *Pod, option string) error {
	out, err := l.PodOutput(p, "dig", option, "+tries=1", "+time=1", "@10.43.0.10", "kubernetes.default.svc.cluster.local")
	if err == nil && !strings.Contains(out, "status: NXDOMAIN") {
		err = fmt.Errorf("expected NXDOMAIN: %s", out)
	}
	return err
}

// No process can receive queries of Pods: not even root joins the sockets of the DNS server on the cluster DNS address.
func TestDNS_ProcessBindsClusterDNSAddress_Refused(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 1})
	client := run(t, l, "n1", "client")
	testutil.Eventually(t, "DNS", func() error { return digs(l, client, "+notcp") })
	pid, err := l.hold("n1")
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"10.43.0.10:53", "0.0.0.0:53"} {
		for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
			err := inside(pid, func() error { return bindShared(kind, address) })
			if err == nil {
				t.Errorf("socket type %d on %s was bound, expected: address already in use", kind, address)
			} else if err != unix.EADDRINUSE {
				t.Errorf("socket type %d on %s: %v, expected: address already in use", kind, address, err)
			}
		}
	}
}

// bindShared binds a socket with every option by which sockets share a port.
func bindShared(kind int, address string) error {
	at := netip.MustParseAddrPort(address)
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, o := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o, 1); err != nil {
			return err
		}
	}
	return unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()})
}

// spin tries to bind sockets on a machine again and again, as an unprivileged process, until the returned function is called: it names
// those that could be bound. Each is "network address:port".
func spin(t *testing.T, l *Lab, machine string, sockets ...string) (stop func() (won []string)) {
	t.Helper()
	pid, err := l.hold(machine)
	if err != nil {
		t.Fatal(err)
	}
	end, done := make(chan struct{}), make(chan error, 1)
	won, tries := map[string]bool{}, 0
	go func() {
		done <- inside(pid, func() error {
			if err := syscall.Setfsuid(squatter); err != nil {
				return err
			}
			for ; ; tries++ {
				for _, s := range sockets {
					network, address, _ := strings.Cut(s, " ")
					kind := map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM}[network]
					if bindShared(kind, address) == nil {
						won[s] = true
					}
				}
				select {
				case <-end:
					return nil
				case <-time.After(time.Millisecond):
				}
			}
		})
	}()
	stop = sync.OnceValue(func() []string {
		close(end)
		if err := <-done; err != nil || tries < 100 {
			t.Errorf("%d attempts to bind, expected at least 100: %v", tries, err)
		}
		return slices.Sorted(maps.Keys(won))
	})
	t.Cleanup(func() { stop() })
	return stop
}
