//go:build k8s

package k8s

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// keepAlive is a shell program that sends HTTP requests on one connection for $3 seconds and prints the number of answers. It ends
// with an error when the connection breaks.
const keepAlive = `exec 3<>/dev/tcp/$1/$2 || exit 9
n=0
while [ $SECONDS -lt $3 ]; do
  printf 'GET /hostname HTTP/1.1\r\nHost: x\r\n\r\n' >&3 || exit 1
  IFS= read -t 25 -r line <&3 || exit 2
  case $line in HTTP/1.1\ 200*) ;; *) exit 3 ;; esac
  len=0
  while IFS= read -t 5 -r h <&3; do
    h=${h%$'\r'}; [ -z "$h" ] && break
    case $h in Content-Length:*) len=${h#*: } ;; esac
  done
  read -t 5 -N $len body <&3 || exit 4
  n=$((n + 1)); sleep 0.02
done
echo $n`

// stream holds a connection open from a Pod and returns a function that waits for its end.
func stream(ns, pod, host string, port, seconds int) func() error {
	return background(func() (string, error) {
		return fromPod(ns, pod, "bash", "-c", keepAlive, "stream", host, strconv.Itoa(port), strconv.Itoa(seconds))
	})
}

// streamFrom is the same from a node or the outside host.
func streamFrom(where, host string, port, seconds int) func() error {
	return background(func() (string, error) {
		return try(where, "bash", "-c", keepAlive, "stream", host, strconv.Itoa(port), strconv.Itoa(seconds))
	})
}

func background(f func() (string, error)) func() error {
	done := make(chan error, 1)
	go func() {
		out, err := f()
		if n, _ := strconv.Atoi(strings.TrimSpace(out)); err == nil && n < 10 {
			err = fmt.Errorf("only %d answers", n)
		}
		done <- err
	}()
	return func() error { return <-done }
}

// streams are long connections of every kind, all established; the function waits for their end and reports those that broke.
func streams(t *testing.T, ns string, web map[string]podInfo, service string, nodePort, seconds int) func() {
	t.Helper()
	ends := map[string]func() error{
		"Pod to Pod, other node":    stream(ns, web["n1"].Name, web["n2"].IP, 8080, seconds),
		"Pod to Service":            stream(ns, web["n3"].Name, service, 80, seconds),
		"node to Service":           streamFrom("n1", service, 80, seconds),
		"outside to node port (n2)": streamFrom("ext", nodeIP("n2"), nodePort, seconds),
		"outside to node port (n1)": streamFrom("ext", nodeIP("n1"), nodePort, seconds),
	}
	inPod := func(name string) func(...string) (string, error) {
		return func(args ...string) (string, error) { return fromPod(ns, name, args...) }
	}
	onHost := func(host string) func(...string) (string, error) {
		return func(args ...string) (string, error) { return try(host, args...) }
	}
	untilConnected(t, "Pod to Pod", inPod(web["n1"].Name), 8080, 1)
	untilConnected(t, "Pod to Service", inPod(web["n3"].Name), 80, 1)
	untilConnected(t, "node to Service", onHost("n1"), 80, 1)
	untilConnected(t, "outside to node ports", onHost("ext"), nodePort, 2)
	return func() {
		t.Helper()
		for what, end := range ends {
			if err := end(); err != nil {
				t.Errorf("%s: the connection broke: %v", what, err)
			}
		}
	}
}

// untilConnected waits until a host or Pod has a number of established TCP connections to a remote port.
func untilConnected(t *testing.T, what string, run func(args ...string) (string, error), port, count int) {
	t.Helper()
	// A line of /proc/net/tcp: slot, local address, remote address, state (01 is TCP_ESTABLISHED).
	line := regexp.MustCompile(fmt.Sprintf(`(?m)^ *\d+: [0-9A-F]+:[0-9A-F]{4} [0-9A-F]+:%04X 01 `, port))
	testutil.EventuallyWithin(t, 30*time.Second, what+" is connected", func() error {
		out, err := run("cat", "/proc/net/tcp", "/proc/net/tcp6")
		if n := len(line.FindAllString(out, -1)); err == nil && n < count {
			err = fmt.Errorf("%d connections to port %d, expected %d", n, port, count)
		}
		return err
	})
}

func nodePortService(t *testing.T, ns string, port int) (clusterIP string) {
	t.Helper()
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: %s}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: %d}]}
`, ns, port))
	clusterIP = kubectl(t, "-n", ns, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	testutil.EventuallyWithin(t, 15*time.Second, "the Service", func() error {
		_, err := hostname("n1", "http://"+clusterIP+"/hostname")
		return err
	})
	return clusterIP
}

func killAgent(t *testing.T, node string) {
	t.Helper()
	run(t, node, "pkill", "-9", "-f", "^[^ ]*warren agent")
}

func agentsReady(t *testing.T) {
	t.Helper()
	for _, n := range nodes {
		testutil.EventuallyWithin(t, 90*time.Second, "agent of "+n, func() error {
			out, err := try(n, "curl", "-fsS", "-m", "2", "--unix-socket", "/run/warren/agent.sock", "http://warren/v1/ready")
			if err != nil {
				return fmt.Errorf("%s %w", out, err)
			}
			return nil
		})
	}
}

// The kubelet restarts a killed agent. No connection breaks on any node.
func TestAgents_KilledUnderTraffic_ConnectionsContinue(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	ip := nodePortService(t, ns, 30081)
	wait := streams(t, ns, web, ip, 30081, 20)
	for _, n := range nodes {
		killAgent(t, n)
	}
	wait()
	agentsReady(t)
}

// The DaemonSet is updated node by node.
func TestAgents_RollingUpdate_ConnectionsContinue(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	ip := nodePortService(t, ns, 30082)
	wait := streams(t, ns, web, ip, 30082, 45)
	kubectl(t, "-n", "warren-system", "rollout", "restart", "daemonset/warren")
	kubectl(t, "-n", "warren-system", "rollout", "status", "daemonset/warren", "--timeout=120s")
	wait()
	agentsReady(t)
}

// The API server hangs: traffic continues, an agent that starts works from its disk, and a sandbox that ends is recreated and
// attached.
func TestAPIServer_Hangs_TrafficContinues(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	ip := nodePortService(t, ns, 30083)
	for _, p := range web { // n2's agent starts with what it has on its disk
		testutil.EventuallyWithin(t, 30*time.Second, "endpoint "+p.IP+" on the disk of n2", func() error {
			_, err := try("n2", "grep", "-q", `"`+p.IP+`"`, "/var/lib/warren/snapshot.json")
			return err
		})
	}
	run(t, "n1", "sh", "-c", "kill -STOP $(cat /run/rig/kube-apiserver.pid)")
	resumed := false
	resume := func() {
		if !resumed {
			resumed = true
			_, _ = try("n1", "sh", "-c", "kill -CONT $(cat /run/rig/kube-apiserver.pid)")
		}
	}
	defer resume()
	testutil.EventuallyWithin(t, 10*time.Second, "the API server does not answer: watches are open and silent", func() error {
		if out, err := tryKubectl("get", "--raw", "/readyz", "--request-timeout=1s"); err == nil {
			return fmt.Errorf("it answers %q", out)
		}
		return nil
	})
	killAgent(t, "n2")
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		for _, from := range []string{"n1", "n2", "n3"} {
			testutil.EventuallyWithin(t, 20*time.Second, "Service from "+from, func() error {
				_, err := hostname(from, "http://"+ip+"/hostname")
				return err
			})
			testutil.EventuallyWithin(t, 20*time.Second, "cluster name on "+from, func() error {
				out, err := try(from, "dig", "+short", "+tries=1", "+timeout=2", "@10.43.0.10", "web."+ns+".svc.cluster.local")
				if err != nil {
					return err
				}
				return want(out, ip)
			})
		}
	}
	// The kubelet recreates and attaches the sandbox without the API server.
	old := web["n2"].IP
	run(t, "n2", "sh", "-c", "kill -9 $(ip netns pids $(ctr -n k8s.io containers ls >/dev/null; for n in /run/netns/*; do ip netns exec "+
		"${n##*/} ip -o addr show eth0 2>/dev/null | grep -q "+old+"/ && echo ${n##*/}; done) | head -1)")
	testutil.EventuallyWithin(t, 60*time.Second, "a new sandbox on n2", func() error {
		out, err := try("n2", "curl", "-fsS", "--unix-socket", "/run/warren/agent.sock", "http://warren/v1/pods")
		if err == nil && (strings.Contains(out, `"`+old+`"`) || !strings.Contains(out, web["n2"].Name)) {
			err = fmt.Errorf("Pods %s; expected %s with another address than %s", out, web["n2"].Name, old)
		}
		return err
	})
	resume()
	testutil.EventuallyWithin(t, 60*time.Second, "the API server", func() error {
		_, err := tryKubectl("get", "--raw", "/readyz")
		return err
	})
	testutil.EventuallyWithin(t, 60*time.Second, "every node ready", func() error {
		out, err := tryKubectl("get", "nodes")
		if err == nil && strings.Contains(out, "NotReady") {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	agentsReady(t)
}

// An isolated node does not answer, other nodes are not affected, and it answers again after the link is restored.
func TestNode_Isolated_OthersContinue(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	if _, err := fromPod(ns, web["n1"].Name, curlArgs("http://"+web["n3"].IP+":8080/hostname")...); err != nil {
		t.Fatal(err)
	}
	link := func(state string) {
		if out, err := shell("ip", "-n", "wk-dc", "link", "set", "p-n3", state); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	link("down")
	defer link("up")
	testutil.EventuallyWithin(t, 30*time.Second, "the isolated node does not answer", func() error {
		if _, err := fromPod(ns, web["n1"].Name, "curl", "-fsS", "-m", "2", "http://"+web["n3"].IP+":8080/hostname"); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	if _, err := fromPod(ns, web["n1"].Name, curlArgs("http://"+web["n2"].IP+":8080/hostname")...); err != nil {
		t.Errorf("another node does not answer: %v", err)
	}
	link("up")
	testutil.EventuallyWithin(t, 30*time.Second, "the node answers again", func() error {
		_, err := fromPod(ns, web["n1"].Name, "curl", "-fsS", "-m", "2", "http://"+web["n3"].IP+":8080/hostname")
		return err
	})
}
