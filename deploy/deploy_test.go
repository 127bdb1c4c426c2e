// Package deploy holds no code: its tests keep what the manifests and the image promise.
package deploy

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/warrennet/warren/controller"
	"github.com/warrennet/warren/ingress/route"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	k8sjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/client-go/kubernetes/scheme"
)

// manifest decodes every document strictly: an unknown or doubled field is an error.
func manifest(t *testing.T) (out []runtime.Object) {
	t.Helper()
	raw, err := os.ReadFile("kubeadm/warren.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d := k8sjson.NewSerializerWithOptions(k8sjson.DefaultMetaFactory, scheme.Scheme, scheme.Scheme,
		k8sjson.SerializerOptions{Yaml: true, Strict: true})
	pools, err := os.ReadFile("kubeadm/addresspool-crd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for i, doc := range strings.Split(string(raw), "\n---\n") {
		if doc+"\n" == string(pools) { // its type is not in the scheme
			found = true
			continue
		}
		o, _, err := d.Decode([]byte(doc), nil, nil)
		if err != nil {
			t.Fatalf("document %d: %v", i, err)
		}
		out = append(out, o)
	}
	if !found {
		t.Fatal("addresspool-crd.yaml is not in warren.yaml, word for word")
	}
	return out
}

func find[T runtime.Object](t *testing.T, name func(T) bool) T {
	t.Helper()
	for _, o := range manifest(t) {
		if x, ok := o.(T); ok && name(x) {
			return x
		}
	}
	t.Fatal("not in the manifest")
	var none T
	return none
}

func podSpecs(t *testing.T) map[string]corev1.PodSpec {
	out := map[string]corev1.PodSpec{}
	for _, o := range manifest(t) {
		switch o := o.(type) {
		case *appsv1.DaemonSet:
			out[o.Name] = o.Spec.Template.Spec
		case *appsv1.Deployment:
			out[o.Name] = o.Spec.Template.Spec
		}
	}
	if len(out) != 3 {
		t.Fatalf("%d workloads", len(out))
	}
	return out
}

// The agent writes nothing but Events, and reads no Secret.
func TestManifest_AgentRole_OnlyReads(t *testing.T) {
	role := find(t, func(r *rbacv1.ClusterRole) bool { return r.Name == "warren-agent" })
	var reads []string
	for _, r := range role.Rules {
		if slices.Equal(r.Resources, []string{"events"}) && slices.Equal(r.Verbs, []string{"create"}) {
			continue
		}
		if !slices.Equal(r.Verbs, []string{"list", "watch"}) {
			t.Errorf("%v: %v", r.Resources, r.Verbs)
		}
		reads = append(reads, r.Resources...)
	}
	slices.Sort(reads)
	want := "addresspools endpointslices nodes pods servicecidrs services"
	if strings.Join(reads, " ") != want {
		t.Errorf("reads %v, expected %s", reads, want)
	}
	var bound []string
	for _, o := range manifest(t) {
		if b, ok := o.(*rbacv1.RoleBinding); ok && b.Subjects[0].Name == "warren-agent" {
			bound = append(bound, b.Namespace+"/"+b.RoleRef.Name)
		}
	}
	if !slices.Equal(bound, []string{"kube-system/warren-agent"}) {
		t.Errorf("the agent has Roles %v", bound)
	}
	names := find(t, func(r *rbacv1.Role) bool { return r.Namespace == "kube-system" && r.Name == "warren-agent" })
	one := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"kube-dns"},
		Verbs: []string{"list", "watch"}}}
	if !reflect.DeepEqual(names.Rules, one) {
		t.Errorf("in kube-system it may %v, expected %v", names.Rules, one)
	}
}

// No role has a wildcard, and what can be bound to names is: a role that can change or delete any ConfigMap or Secret of a
// namespace may do anything there.
func TestManifest_Roles_NameWhatTheyWrite(t *testing.T) {
	check := func(role string, rules []rbacv1.PolicyRule) {
		for _, r := range rules {
			for _, x := range slices.Concat(r.APIGroups, r.Resources, r.Verbs) {
				if x == "*" {
					t.Errorf("%s: a wildcard in %v", role, r)
				}
			}
			sensitive := slices.Contains(r.Resources, "secrets") || slices.Contains(r.Resources, "configmaps")
			if sensitive && len(r.ResourceNames) == 0 && !slices.Equal(r.Verbs, []string{"create"}) {
				t.Errorf("%s: %v on all %v", role, r.Verbs, r.Resources)
			}
		}
	}
	for _, o := range manifest(t) {
		switch o := o.(type) {
		case *rbacv1.Role:
			check(o.Namespace+"/"+o.Name, o.Rules)
		case *rbacv1.ClusterRole:
			check(o.Name, o.Rules)
		}
	}
}

// The least that each container gets by with.
func TestManifest_Containers_HaveOnlyNeededCapabilities(t *testing.T) {
	want := map[string]string{
		"warren/agent": "NET_ADMIN NET_RAW NET_BIND_SERVICE BPF", "warren/install-cni": "DAC_OVERRIDE",
		"warren-etcd/etcd": "", "warren-controller/controller": "",
	}
	for workload, spec := range podSpecs(t) {
		for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
			name, sc := workload+"/"+c.Name, c.SecurityContext
			var added []string
			for _, a := range sc.Capabilities.Add {
				added = append(added, string(a))
			}
			if w, ok := want[name]; !ok || strings.Join(added, " ") != w ||
				!slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("%s: adds %v, drops %v", name, added, sc.Capabilities.Drop)
			}
			if sc.Privileged != nil || *sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem ||
				sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%s: %+v", name, sc)
			}
			delete(want, name)
		}
	}
	if len(want) > 0 {
		t.Errorf("not in the manifest: %v", want)
	}
}

// Before there is a network only Pods like these start.
func TestManifest_Pods_StartWithoutPodNetwork(t *testing.T) {
	for name, spec := range podSpecs(t) {
		if !spec.HostNetwork || spec.DNSPolicy != corev1.DNSDefault || spec.PriorityClassName == "" ||
			*spec.TerminationGracePeriodSeconds > 30 {
			t.Errorf("%s: hostNetwork %v, dnsPolicy %s, priority %q", name, spec.HostNetwork, spec.DNSPolicy, spec.PriorityClassName)
		}
		if !slices.ContainsFunc(spec.Tolerations, func(x corev1.Toleration) bool {
			return x.Operator == corev1.TolerationOpExists && x.Key == "" && x.Effect == ""
		}) {
			t.Errorf("%s does not tolerate everything", name)
		}
		for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
			if len(c.Ports) > 0 {
				t.Errorf("%s/%s has containerPorts", name, c.Name)
			}
			if c.Image != "localhost/warren:dev" || c.ImagePullPolicy != corev1.PullIfNotPresent {
				t.Errorf("%s/%s: image %s, %s", name, c.Name, c.Image, c.ImagePullPolicy)
			}
		}
	}
	for name, spec := range podSpecs(t) {
		if name == "warren" {
			continue
		}
		var keys []string
		for _, term := range spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			keys = append(keys, term.MatchExpressions[0].Key)
		}
		if strings.Join(keys, " ") != "node-role.kubernetes.io/control-plane warren.dev/control-plane" {
			t.Errorf("%s runs on nodes with %v", name, keys)
		}
	}
}

// The agents' Pods wait for what the controller makes, see no authority's key and only the host paths they need.
func TestManifest_AgentMounts_MatchTheProgram(t *testing.T) {
	var paths, objects []string
	for _, v := range podSpecs(t)["warren"].Volumes {
		switch {
		case v.HostPath != nil:
			paths = append(paths, v.HostPath.Path)
		case v.ConfigMap != nil && v.ConfigMap.Optional == nil:
			objects = append(objects, v.ConfigMap.Name)
		case v.Secret != nil && v.Secret.Optional == nil:
			objects = append(objects, v.Secret.SecretName)
		default:
			t.Errorf("volume %+v", v)
		}
	}
	if want := "/dev/net/tun /proc/sys/net /run/warren /var/lib/warren /var/run/wireguard /etc/cni/net.d /opt/cni/bin"; strings.Join(paths,
		" ") != want {
		t.Errorf("host paths %v", paths)
	}
	if want := "warren-config warren-cluster warren-etcd-client"; strings.Join(objects, " ") != want {
		t.Errorf("waits for %v", objects)
	}
	for _, m := range podSpecs(t)["warren"].Containers[0].VolumeMounts {
		if m.Name == "cni-bin" {
			t.Error("the agent can write the runtime's plugins")
		}
	}
}

// ingressManifest decodes ingress.yaml strictly.
func ingressManifest(t *testing.T) (out []runtime.Object) {
	t.Helper()
	raw, err := os.ReadFile("kubeadm/ingress.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d := k8sjson.NewSerializerWithOptions(k8sjson.DefaultMetaFactory, scheme.Scheme, scheme.Scheme,
		k8sjson.SerializerOptions{Yaml: true, Strict: true})
	for i, doc := range strings.Split(string(raw), "\n---\n") {
		o, _, err := d.Decode([]byte(doc), nil, nil)
		if err != nil {
			t.Fatalf("document %d: %v", i, err)
		}
		out = append(out, o)
	}
	return out
}

func findIngress[T runtime.Object](t *testing.T) T {
	t.Helper()
	for _, o := range ingressManifest(t) {
		if x, ok := o.(T); ok {
			return x
		}
	}
	t.Fatal("not in ingress.yaml")
	var none T
	return none
}

// The ingress reads five kinds, and writes nothing.
func TestIngressManifest_Role_OnlyReads(t *testing.T) {
	var reads []string
	for _, r := range findIngress[*rbacv1.ClusterRole](t).Rules {
		if !slices.Equal(r.Verbs, []string{"list", "watch"}) {
			t.Errorf("%v: %v", r.Resources, r.Verbs)
		}
		reads = append(reads, r.Resources...)
	}
	slices.Sort(reads)
	if want := "endpointslices ingressclasses ingresses secrets services"; strings.Join(reads, " ") != want {
		t.Errorf("reads %v, expected %s", reads, want)
	}
	account := findIngress[*corev1.ServiceAccount](t)
	bound := findIngress[*rbacv1.ClusterRoleBinding](t)
	if s := bound.Subjects[0]; s.Name != account.Name || s.Namespace != account.Namespace || bound.RoleRef.Name != "warren-ingress" {
		t.Errorf("the role is bound to %+v", bound)
	}
}

// The Pods satisfy the Pod security standard "restricted", in a namespace that enforces it.
func TestIngressManifest_Pods_AreUnprivileged(t *testing.T) {
	set, ns := findIngress[*appsv1.DaemonSet](t), findIngress[*corev1.Namespace](t)
	if ns.Labels["pod-security.kubernetes.io/enforce"] != "restricted" || set.Namespace != ns.Name {
		t.Errorf("namespace %s: %v", set.Namespace, ns.Labels)
	}
	spec := set.Spec.Template.Spec
	if spec.HostNetwork || spec.HostPID || spec.HostIPC || len(spec.Tolerations) > 0 || len(spec.InitContainers) > 0 ||
		len(spec.Containers) != 1 {
		t.Errorf("Pods: %+v", spec)
	}
	for _, v := range spec.Volumes {
		if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil {
			t.Errorf("volume %+v", v)
		}
	}
	c := spec.Containers[0]
	sc := c.SecurityContext
	if sc.Privileged != nil || *sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem || !*sc.RunAsNonRoot || *sc.RunAsUser == 0 ||
		len(sc.Capabilities.Add) > 0 || !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) ||
		sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("security context %+v", sc)
	}
	if c.Image != "localhost/warren:dev" || c.ImagePullPolicy != corev1.PullIfNotPresent {
		t.Errorf("image %s, %s", c.Image, c.ImagePullPolicy)
	}
	if *spec.TerminationGracePeriodSeconds <= 35 || !slices.Contains(c.Args, "--linger=5s") || !slices.Contains(c.Args, "--drain=30s") {
		t.Errorf("%d seconds for %v", *spec.TerminationGracePeriodSeconds, c.Args)
	}
}

// Service, Pods, class and controller agree.
func TestIngressManifest_Service_LeadsToThePods(t *testing.T) {
	set, svc, class := findIngress[*appsv1.DaemonSet](t), findIngress[*corev1.Service](t), findIngress[*networkingv1.IngressClass](t)
	for k, v := range svc.Spec.Selector {
		if set.Spec.Template.Labels[k] != v {
			t.Errorf("the Service selects %s=%s, the Pods have %v", k, v, set.Spec.Template.Labels)
		}
	}
	ports := map[string]int32{}
	for _, p := range set.Spec.Template.Spec.Containers[0].Ports {
		ports[p.Name] = p.ContainerPort
	}
	for _, p := range svc.Spec.Ports {
		if ports[p.TargetPort.StrVal] == 0 {
			t.Errorf("target port %s is none of %v", p.TargetPort.StrVal, ports)
		}
	}
	if svc.Namespace != controller.IngressNamespace || svc.Name != controller.IngressService ||
		svc.Spec.Type != corev1.ServiceTypeLoadBalancer || class.Spec.Controller != route.Controller || class.Name != "warren" {
		t.Errorf("Service %s/%s %s, class %+v", svc.Namespace, svc.Name, svc.Spec.Type, class.Spec)
	}
}

// uninstall.yaml runs where the agent may not, removes what the agent has below its host paths, and is not privileged.
func TestManifest_Uninstall_MatchesTheAgent(t *testing.T) {
	raw, err := os.ReadFile("kubeadm/uninstall.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d := k8sjson.NewSerializerWithOptions(k8sjson.DefaultMetaFactory, scheme.Scheme, scheme.Scheme,
		k8sjson.SerializerOptions{Yaml: true, Strict: true})
	var set *appsv1.DaemonSet
	for _, doc := range strings.Split(string(raw), "\n---\n") {
		o, _, err := d.Decode([]byte(doc), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if x, ok := o.(*appsv1.DaemonSet); ok {
			set = x
		}
	}
	spec, agent := set.Spec.Template.Spec, podSpecs(t)["warren"]
	not := agent.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions[0]
	if not.Operator != corev1.NodeSelectorOpNotIn || len(not.Values) != 1 || spec.NodeSelector[not.Key] != not.Values[0] {
		t.Errorf("on nodes with %v, the agents on those with %v", spec.NodeSelector, not)
	}
	var paths []string
	for _, v := range spec.Volumes {
		paths = append(paths, v.HostPath.Path)
	}
	if want := "/proc/sys/net /run /var/lib /etc/cni/net.d /opt/cni/bin"; strings.Join(paths, " ") != want {
		t.Errorf("host paths %v", paths)
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		sc := c.SecurityContext
		if sc.Privileged != nil || *sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem ||
			!slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("%s: %+v", c.Name, sc)
		}
	}
}

// image.sh makes a docker archive of static binaries for the requested architecture, the same bytes each time.
func TestImage_TwoArchitectures_StaticAndReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("builds for two architectures")
	}
	first := build(t, "amd64")
	if !bytes.Equal(first, build(t, "amd64")) {
		t.Error("two builds differ")
	}
	checkImage(t, first, "amd64", elf.EM_X86_64)
	checkImage(t, build(t, "arm64"), "arm64", elf.EM_AARCH64)
}

// testVersion is the version of the images that these tests build.
const testVersion = "0.9.1-test.1+g1234567"

func build(t *testing.T, arch string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	cmd := exec.Command("./image.sh", file)
	cmd.Env = append(os.Environ(), "GOARCH="+arch, "VERSION="+testVersion, "IMAGE=localhost/warren:test")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("image.sh: %v\n%s", err, out)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func untar(t *testing.T, raw []byte) (files map[string][]byte, modes map[string]int64) {
	t.Helper()
	files, modes = map[string][]byte{}, map[string]int64{}
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, modes
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s: owner %d:%d, time %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		if h.Typeflag == tar.TypeReg {
			name := strings.TrimPrefix(h.Name, ".")
			if files[name], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
			modes[name] = h.Mode
		}
	}
}

func checkImage(t *testing.T, raw []byte, arch string, machine elf.Machine) {
	t.Helper()
	top, _ := untar(t, raw)
	var m []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(top["manifest.json"], &m); err != nil || len(m) != 1 ||
		!slices.Equal(m[0].RepoTags, []string{"localhost/warren:test", "localhost/warren:0.9.1-test.1-g1234567"}) ||
		len(m[0].Layers) != 1 {
		t.Fatalf("manifest.json: %v %+v", err, m)
	}
	var c struct {
		Architecture, OS string
		Config           struct {
			Entrypoint []string
			Labels     map[string]string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(top[m[0].Config], &c); err != nil {
		t.Fatal(err)
	}
	layer := top[m[0].Layers[0]]
	if id := fmt.Sprintf("sha256:%x", sha256.Sum256(layer)); c.Architecture != arch || c.OS != "linux" || c.RootFS.DiffIDs[0] != id ||
		c.Config.Entrypoint[0] != "/warren" {
		t.Errorf("config: %+v, layer %s", c, id)
	}
	if v := c.Config.Labels["org.opencontainers.image.version"]; v != testVersion {
		t.Errorf("label org.opencontainers.image.version: %q, expected %s", v, testVersion)
	}
	files, modes := untar(t, layer)
	for _, name := range []string{"/warren", "/opt/warren/warren-cni"} {
		f, err := elf.NewFile(bytes.NewReader(files[name]))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Contains(files[name], []byte(testVersion)) {
			t.Errorf("%s does not carry the version %s", name, testVersion)
		}
		libs, err := f.ImportedLibraries()
		if f.Machine != machine || len(libs) > 0 || err != nil || modes[name] != 0o755 {
			t.Errorf("%s: %s, libraries %v %v, mode %o", name, f.Machine, libs, err, modes[name])
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("%s is not static", name)
			}
		}
	}
	if files["/etc/passwd"] == nil || files["/etc/group"] == nil || len(files) != 4 {
		t.Errorf("%d files in the image", len(files))
	}
}
