//go:build k8s

package k8s

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// A StatefulSet's Pods have stable names, also after they were recreated with another address.
func TestWorkloads_StatefulSet_NamesFollowPods(t *testing.T) {
	ns := namespace(t)
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: db, namespace: %[1]s}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: http, port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: %[1]s}
spec:
  serviceName: db
  replicas: 3
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: db, image: %[2]s, args: [netexec]}]
`, ns, agnhost))
	kubectl(t, "-n", ns, "rollout", "status", "statefulset/db", "--timeout=90s")
	reach := func() error {
		for i := range 3 {
			name := fmt.Sprintf("db-%d", i)
			out, err := fromPod(ns, "db-0", curlArgs("http://"+name+".db:8080/hostname")...)
			if err != nil {
				return err
			}
			if err := want(out, name); err != nil {
				return err
			}
		}
		return nil
	}
	testutil.EventuallyWithin(t, 15*time.Second, "every member by name", reach)
	out, err := fromPod(ns, "db-0", "dig", "+short", "SRV", "_http._tcp.db."+ns+".svc.cluster.local")
	if err != nil || len(strings.Split(strings.TrimSpace(out), "\n")) != 3 {
		t.Errorf("SRV: %q, %v; expected three targets", out, err)
	}
	old := kubectl(t, "-n", ns, "get", "pod", "db-1", "-o", "jsonpath={.status.podIP}")
	kubectl(t, "-n", ns, "delete", "pod", "db-1")
	kubectl(t, "-n", ns, "rollout", "status", "statefulset/db", "--timeout=90s")
	if now := kubectl(t, "-n", ns, "get", "pod", "db-1", "-o", "jsonpath={.status.podIP}"); now == old {
		t.Errorf("the new Pod has the address of the old one, %s: addresses must not be used again at once", old)
	}
	testutil.EventuallyWithin(t, 15*time.Second, "every member by name again", reach)
}

// Jobs run and their Pods reach Services; a CronJob's too.
func TestWorkloads_Jobs_Complete(t *testing.T) {
	ns := namespace(t)
	onEachNode(t, ns, "web")
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: %[1]s}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: %[1]s}
spec:
  completions: 6
  parallelism: 3
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: once, image: %[2]s, command: [curl, -fsS, -m, "5", "http://web/hostname"]}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick, namespace: %[1]s}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate:
    spec:
      backoffLimit: 0
      template:
        spec:
          restartPolicy: Never
          containers: [{name: once, image: %[2]s, command: [curl, -fsSk, -m, "5", "https://kubernetes.default.svc/livez"]}]
`, ns, agnhost))
	kubectl(t, "-n", ns, "create", "job", "tock", "--from=cronjob/tick")
	kubectl(t, "-n", ns, "wait", "--for=condition=complete", "job/once", "job/tock", "--timeout=90s")
}

// Replicas come and go under load: after an endpoint was ready no request fails.
func TestWorkloads_ScaledUnderLoad_NoRequestFails(t *testing.T) {
	ns := namespace(t)
	deployment(t, ns, 3, `netexec, --delay-shutdown, "10"`)
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: %[1]s}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: %[1]s}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: %[2]s, args: [pause]}]}
`, ns, agnhost))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/client", "--timeout=60s")
	load := background(func() (string, error) {
		return fromPod(ns, "client", "bash", "-c",
			`n=0; while [ $SECONDS -lt 25 ]; do curl -fsS -m 5 http://web/hostname >/dev/null || exit 1; n=$((n+1)); done; echo $n`)
	})
	for _, n := range []string{"8", "2", "6", "1", "4"} {
		kubectl(t, "-n", ns, "scale", "deployment/web", "--replicas="+n)
		kubectl(t, "-n", ns, "rollout", "status", "deployment/web", "--timeout=60s")
		time.Sleep(time.Second) // of load with this number of replicas
	}
	if err := load(); err != nil {
		t.Errorf("a request failed while replicas came and went: %v", err)
	}
}

// hostPort: the same number on two addresses and two protocols at once, from outside and from the node itself.
func TestWorkloads_HostPort_Answers(t *testing.T) {
	ns := namespace(t)
	pod := func(name, port string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  nodeName: n2
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: %[3]s, args: [netexec, --http-port=8080, --udp-port=8080], ports: [%[4]s]}]
---`, ns, name, agnhost, port)
	}
	apply(t, pod("local", `{containerPort: 8080, hostPort: 28080, hostIP: 127.0.0.1}`)+
		pod("address", `{containerPort: 8080, hostPort: 28080, hostIP: `+nodeIP("n2")+`}`)+
		pod("datagram", `{containerPort: 8080, hostPort: 28080, protocol: UDP, hostIP: `+nodeIP("n2")+`}`)+
		pod("sctp", `{containerPort: 8081, hostPort: 28081, protocol: SCTP}`))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=90s")
	for _, c := range []struct{ from, url, name string }{
		{"ext", "http://" + nodeIP("n2") + ":28080/hostname", "address"},
		{"n1", "http://" + nodeIP("n2") + ":28080/hostname", "address"},
		{"n2", "http://" + nodeIP("n2") + ":28080/hostname", "address"},
		{"n2", "http://127.0.0.1:28080/hostname", "local"},
	} {
		testutil.EventuallyWithin(t, 10*time.Second, c.from+" "+c.url, func() error {
			out, err := hostname(c.from, c.url)
			if err != nil {
				return err
			}
			return want(out, c.name)
		})
	}
	testutil.EventuallyWithin(t, 10*time.Second, "UDP", func() error {
		out, err := try("ext", "bash", "-c", "echo hostname | nc -u -w 1 "+nodeIP("n2")+" 28080")
		if err != nil && out == "" {
			return err
		}
		return want(out, "datagram")
	})
}

// exec, logs, port-forward and the API server's proxy all go through the Pod network.
func TestWorkloads_PortForwardAndProxy_Answer(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	ip := nodePortService(t, ns, 30084)
	_ = ip
	for _, n := range nodes {
		p := web[n].Name
		out, err := tryKubectl("get", "--raw", "/api/v1/namespaces/"+ns+"/pods/"+p+":8080/proxy/hostname")
		if err != nil || out != p {
			t.Errorf("proxy to the Pod on %s: %q, %v", n, out, err)
		}
		out, err = try("ext", "bash", "-c", "kubectl -n "+ns+" port-forward pod/"+p+
			" 18080:8080 >/dev/null 2>&1 & pf=$!; for i in $(seq 50); do curl -fsS -m 2 http://127.0.0.1:18080/hostname 2>/dev/null && "+
			"break; sleep 0.1; done; kill $pf")
		if err != nil || out != p {
			t.Errorf("port-forward to the Pod on %s: %q, %v", n, out, err)
		}
	}
	if out, err := tryKubectl("get", "--raw", "/api/v1/namespaces/"+ns+"/services/web:80/proxy/hostname"); err != nil ||
		!strings.HasPrefix(out, "web-") {
		t.Errorf("proxy to the Service: %q, %v", out, err)
	}
}
