package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/warrennet/warren/ingress/route"
	"github.com/warrennet/warren/internal/testutil"
)

// loadEnv makes this program an HTTP client under load; see httpLoad.
const loadEnv = "WARREN_LAB_LOAD"

// loadResult is what httpLoad prints at its end.
type loadResult struct {
	Requests, Failed int64
	First            string           // failure
	Hosts            map[string]int64 // requests by the host name of the Pod that answered
}

// httpLoad sends requests to "address host path" with several connections until SIGTERM. It prints "running" after the first answer.
func httpLoad() int {
	f := strings.Fields(os.Getenv(loadEnv))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	var requests, failed atomic.Int64
	var mu sync.Mutex
	result := loadResult{Hosts: map[string]int64{}}
	done := make(chan struct{})
	var wg sync.WaitGroup
	var once sync.Once
	for range 4 {
		wg.Go(func() {
			tr := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, f[0])
			}}
			client := &http.Client{Transport: tr, Timeout: 20 * time.Second}
			for {
				select {
				case <-done:
					return
				default:
				}
				name, err := oneRequest(client, "http://"+f[1]+f[2])
				requests.Add(1)
				mu.Lock()
				if err != nil && failed.Add(1) == 1 {
					result.First = err.Error()
				}
				result.Hosts[name]++
				mu.Unlock()
				if err == nil {
					once.Do(func() { fmt.Println("running") })
				}
			}
		})
	}
	<-stop
	close(done)
	wg.Wait()
	result.Requests, result.Failed = requests.Load(), failed.Load()
	_ = json.NewEncoder(os.Stdout).Encode(result)
	return 0
}

func oneRequest(client *http.Client, url string) (name string, err error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", resp.Status, line)
	}
	_, rest, _ := strings.Cut(line, "host=")
	name, _, _ = strings.Cut(rest, " ")
	return name, nil
}

const ingressClassYAML = `
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: warren, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}
spec: {controller: warren.dev/ingress}
`

// ingressYAML is an Ingress web.test with a path to each Service, "path service".
func ingressYAML(name, more string, paths ...string) string {
	var b strings.Builder
	for _, p := range paths {
		path, service, _ := strings.Cut(p, " ")
		fmt.Fprintf(&b, "      - {path: %s, pathType: Prefix, backend: {service: {name: %s, port: {number: 80}}}}\n", path, service)
	}
	return fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: %s}\nspec:\n%s  rules:\n  - host: web.test\n"+
		"    http:\n      paths:\n%s", name, more, b.String())
}

func plainService(name, selector string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {ports: [{port: 80}]%s}\n", name, selector)
}

// startIngress runs ingress Pods on the first two nodes, behind the Service ingress.
func startIngress(t *testing.T, l *Lab, flags ...string) (pods []*Pod) {
	t.Helper()
	for i, n := range []string{"n1", "n2"} {
		p, err := l.RunIngress(t.Context(), n, fmt.Sprintf("ingress-%d", i+1), flags...)
		if err != nil {
			t.Fatal(err)
		}
		pods = append(pods, p)
	}
	applyYAML(t, l, ingressClassYAML+"---\napiVersion: v1\nkind: Service\nmetadata: {name: ingress}\nspec:\n  type: NodePort\n"+
		"  selector: {app: warren-ingress}\n"+
		"  ports: [{name: http, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}]\n")
	return pods
}

// beginLoad starts httpLoad in a Pod and waits until it runs.
func beginLoad(t *testing.T, l *Lab, from *Pod, address, path string) *task {
	t.Helper()
	k := begin(t, l, in(l, from), "env", loadEnv+"="+address+" web.test "+path, os.Args[0])
	testutil.Eventually(t, "the first answer under load", func() error {
		if !strings.Contains(k.text(), "running\n") {
			return errors.New(k.text())
		}
		return nil
	})
	return k
}

// endLoad ends load: no request may have failed, and at least atLeast must have been sent.
func endLoad(t *testing.T, k *task, atLeast int64) loadResult {
	t.Helper()
	text := k.stop(syscall.SIGTERM)
	_, raw, _ := strings.Cut(text, "running\n")
	var r loadResult
	if err := json.Unmarshal([]byte(raw), &r); err != nil {
		t.Fatalf("load printed %q: %v", text, err)
	}
	if r.Failed != 0 || r.Requests < atLeast {
		t.Errorf("%d of %d requests failed, expected none of at least %d; the first: %s", r.Failed, r.Requests, atLeast, r.First)
	}
	return r
}

// An Ingress is served by host and path, in clear text and with TLS, from Pods and from the node network, by ingress Pods without any
// capability. The commands explain it.
func TestIngress_HostPathAndTLS_ReachBackendsOnAllNodes(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 3})
	pods := startIngress(t, l)
	for _, n := range l.NodeNames() {
		labelled(t, l, n, "web-"+n, "app=web")
	}
	api := labelled(t, l, "n3", "api", "app=api")
	client := labelled(t, l, "n2", "client", "app=client")
	certificate, key := testutil.Certificate(t, "web.test")
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: web-tls}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    " +
		strings.ReplaceAll(strings.TrimSpace(certificate), "\n", "\n    ") + "\n  tls.key: |\n    " +
		strings.ReplaceAll(strings.TrimSpace(key), "\n", "\n    ") + "\n"
	applyYAML(t, l, strings.Join([]string{plainService("web", ", selector: {app: web}"), plainService("api", ", selector: {app: api}"),
		secret,
		ingressYAML("web", "  tls: [{hosts: [web.test], secretName: web-tls}]\n", "/ web", "/api api")}, "---\n"))
	vip := getSvc(t, l, "ingress").ips(t)[0]
	sh(t, l, "n2", "cat > /run/ca.pem <<'END'\n"+certificate+"END")
	curl := func(url string) (string, error) {
		return l.PodOutput(client, "curl", "-sS", "--max-time", "5", "--cacert", "/run/ca.pem", "--connect-to",
			"web.test::"+host(vip)+":", url)
	}
	for url, want := range map[string][]string{"http://web.test/": {"web-n1", "web-n2", "web-n3"}, "https://web.test/x": {"web-n1",
		"web-n2", "web-n3"}, "http://web.test/api/v1": {"api"}, "https://web.test/api": {"api"}} {
		seen := map[string]bool{}
		testutil.Eventually(t, url, func() error {
			out, err := curl(url)
			if err != nil || !strings.HasPrefix(out, "host=") {
				return fmt.Errorf("%w: %s", err, out)
			}
			name, _, _ := strings.Cut(strings.TrimPrefix(out, "host="), " ")
			if !strings.Contains(strings.Join(want, " "), name) {
				t.Fatalf("%s was answered by %s, expected one of %v", url, name, want)
			}
			if !strings.Contains(out, "X-Forwarded-Proto: "+url[:strings.Index(url, ":")]) || !strings.Contains(out, "Host: web.test") &&
				!strings.Contains(out, "X-Forwarded-Host: web.test") {
				t.Errorf("%s: the backend received %s", url, out)
			}
			if seen[name] = true; len(seen) < len(want) {
				return fmt.Errorf("answered by %v so far, expected %v", seen, want)
			}
			return nil
		})
	}
	if out, err := curl("http://other.test/"); err == nil && !strings.Contains(out, "no Ingress serves") {
		t.Errorf("another host: %s", out)
	}
	for _, p := range pods {
		status := sh(t, l, p.Node, fmt.Sprintf("grep -E '^Cap(Eff|Prm|Bnd)' /proc/%d/status", l.Pid(p.Node, p.process())))
		if strings.Count(status, "0000000000000000") != 3 {
			t.Errorf("capabilities of the ingress: %s", status)
		}
	}
	var x route.Explanation
	out := sh(t, l, "n1", l.Exe+" ingress route --socket /run/warren/ingress-1.sock -o json http://web.test/api/v1")
	if err := json.Unmarshal([]byte(out), &x); err != nil || x.Choice != api.Addresses[0].String()+":80" || x.Rule.Path != "/api" {
		t.Errorf("route: %v %s", err, out)
	}
	out = sh(t, l, "n1", l.Exe+" ingress routes --socket /run/warren/ingress-1.sock")
	if !strings.Contains(out, "web.test  /api  Prefix  default/web  default/api:80  web.test") {
		t.Errorf("routes printed %s", out)
	}
	for cmd, want := range map[string]string{"get ingresses": "web.test", "get secrets": "web.test",
		"describe secret web-tls": "tls.key: "} {
		if out := sh(t, l, "n1", l.Exe+" "+cmd); !strings.Contains(out, want) || strings.Contains(out, "PRIVATE") {
			t.Errorf("%s printed %s", cmd, out)
		}
	}
}

// No request fails while endpoints and routes change, while a backend is killed, and while etcd is down.
func TestIngress_ChangesUnderLoad_NoRequestFails(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 3})
	startIngress(t, l)
	var web []*Pod
	for _, n := range l.NodeNames() {
		web = append(web, labelled(t, l, n, "web-"+n, "app=web"))
	}
	client := labelled(t, l, "n3", "client", "app=client")
	endpoints := func(pods ...*Pod) string {
		var list []string
		for _, p := range pods {
			list = append(list, fmt.Sprintf("{addresses: [%s]}", p.Addresses[0]))
		}
		return "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n" +
			"metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\n" +
			"addressType: IPv4\nports: [{port: 80}]\nendpoints: [" + strings.Join(list, ", ") + "]\n"
	}
	applyYAML(t, l, plainService("web", "")+"---\n"+endpoints(web...)+"---\n"+ingressYAML("web", "", "/ web"))
	k := beginLoad(t, l, client, host(getSvc(t, l, "ingress").ips(t)[0])+":80", "/app/x")
	sets := [][]*Pod{{web[0]}, {web[1], web[2]}, {web[2]}, {web[0], web[1]}, web}
	const rounds = 25
	for i := range rounds {
		applyYAML(t, l, endpoints(sets[i%len(sets)]...)+"---\n"+ingressYAML("web", "", "/ web", fmt.Sprintf("/v%d web", i))+"---\n"+
			ingressYAML(fmt.Sprintf("more-%d", i), "", fmt.Sprintf("/more-%d web", i)))
	}
	applyYAML(t, l, endpoints(web...))
	if err := l.RemovePod(web[1]); err != nil { // its address remains an endpoint
		t.Fatal(err)
	}
	applyYAML(t, l, endpoints(web[0], web[2]))
	if err := l.StopEtcd("etcd1", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	sh(t, l, "n3", "for i in $(seq 20); do "+l.Exe+" lab get http://"+host(web[2].Addresses[0])+"/ >/dev/null || exit 1; done")
	if err := l.StartEtcd("etcd1"); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "a change after the restart of etcd", func() error {
		_, err := l.Output("n1", "sh", "-c", "echo '"+ingressYAML("after", "", "/after web")+"' | "+l.Exe+" apply -f -")
		if err != nil {
			return err
		}
		out, err := l.Output("n1", l.Exe, "ingress", "routes", "--socket", "/run/warren/ingress-1.sock")
		if err == nil && !strings.Contains(out, "/after") {
			err = errors.New("the route is missing")
		}
		return err
	})
	r := endLoad(t, k, 1000)
	for _, p := range web {
		if r.Hosts[p.Name] == 0 {
			t.Errorf("Pod %s answered no request: %v", p.Name, r.Hosts)
		}
	}
	t.Logf("%d requests, none failed, by Pod: %v", r.Requests, r.Hosts)
}

// No request fails while one ingress after the other is ended and replaced, as in an upgrade: the ended one fails its readiness first, and
// accepts connections until no Service sends any.
func TestIngress_ReplacedUnderLoad_NoRequestFails(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 3})
	flags := []string{"--status", ":9571", "--linger", "3s", "--drain", "5s"}
	pods := startIngress(t, l, flags...)
	for _, n := range l.NodeNames() {
		labelled(t, l, n, "web-"+n, "app=web")
	}
	client := labelled(t, l, "n3", "client", "app=client")
	applyYAML(t, l, plainService("web", ", selector: {app: web}")+"---\n"+ingressYAML("web", "", "/ web"))
	probe := func(p *Pod) {
		sh(t, l, p.Node, l.Exe+" pod probe "+p.Name+" http:9571/readyz --interval 200ms --failures 1")
	}
	ready := func(node string, count int) {
		t.Helper()
		testutil.Eventually(t, fmt.Sprintf("%d ready ingress Pods seen by %s", count, node), func() error {
			out, err := l.Output(node, "sh", "-c", l.Exe+" endpoints default/ingress | grep -w ready | grep -vc 'not ready'")
			if strings.TrimSpace(out) != fmt.Sprint(count) {
				return fmt.Errorf("%s ready, expected %d (%w)", strings.TrimSpace(out), count, errors.Join(err, errors.New("not yet")))
			}
			return nil
		})
	}
	for _, p := range pods {
		probe(p)
	}
	ready("n3", 2)
	k := beginLoad(t, l, client, host(getSvc(t, l, "ingress").ips(t)[0])+":80", "/")
	for i, old := range pods {
		if err := l.kill(l.Pid(old.Node, old.process()), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		ready("n3", 1)
		if err := l.RemovePod(old); err != nil {
			t.Fatal(err)
		}
		p, err := l.RunIngress(t.Context(), old.Node, fmt.Sprintf("ingress-%d", i+3), flags...)
		if err != nil {
			t.Fatal(err)
		}
		probe(p)
		ready("n3", 2)
	}
	r := endLoad(t, k, 500)
	t.Logf("%d requests, none failed", r.Requests)
}
