//go:build k8s

package k8s

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

// request is a request of a service account as the audit log of the API server has it (audit.k8s.io/v1 Event).
type request struct {
	User struct {
		Username string `json:"username"`
	} `json:"user"`
	Verb      string `json:"verb"`
	ObjectRef struct {
		Resource, Subresource, APIGroup, Namespace, Name string
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

// permission is one combination that a role permits. Namespace is empty for all, Name for every object.
type permission struct{ Account, Namespace, Verb, Group, Resource, Name string }

// permits reports whether the permission is one that the request uses.
func (p permission) permits(r request) bool {
	o := r.ObjectRef
	resource := o.Resource
	if o.Subresource != "" {
		resource += "/" + o.Subresource
	}
	return p.Account == r.User.Username && p.Verb == r.Verb && p.Group == o.APIGroup && p.Resource == resource &&
		(p.Namespace == "" || p.Namespace == o.Namespace) && (p.Name == "" || p.Name == o.Name)
}

// requests are those of warren's service accounts since the cluster began.
func requests(t *testing.T) (out []request) {
	t.Helper()
	seen := map[request]bool{}
	lines := bufio.NewScanner(strings.NewReader(run(t, "n1", "cat", os.Getenv("RIG_STATE")+"/n1/audit.log")))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r request
		if json.Unmarshal(lines.Bytes(), &r) != nil || seen[r] {
			continue // the last line may be incomplete
		}
		seen[r] = true
		out = append(out, r)
	}
	return out
}

// permissions are those of the roles that are bound to warren's service accounts.
func permissions(t *testing.T) (out []permission) {
	t.Helper()
	get := func(kind string, into any) {
		t.Helper()
		out := kubectl(t, "get", kind, "-A", "-l", "app.kubernetes.io/name=warren", "-o", "json")
		if err := json.Unmarshal([]byte(out), into); err != nil {
			t.Fatal(kind, err)
		}
	}
	var clusterRoles rbacv1.ClusterRoleList
	var roles rbacv1.RoleList
	var clusterBindings rbacv1.ClusterRoleBindingList
	var bindings rbacv1.RoleBindingList
	get("clusterroles", &clusterRoles)
	get("roles", &roles)
	get("clusterrolebindings", &clusterBindings)
	get("rolebindings", &bindings)
	rules := map[string][]rbacv1.PolicyRule{}
	for _, r := range clusterRoles.Items {
		rules["/"+r.Name] = r.Rules
	}
	for _, r := range roles.Items {
		rules[r.Namespace+"/"+r.Name] = r.Rules
	}
	add := func(namespace, role string, subjects []rbacv1.Subject) {
		for _, s := range subjects {
			account := fmt.Sprintf("system:serviceaccount:%s:%s", s.Namespace, s.Name)
			for _, r := range rules[role] {
				out = append(out, expand(account, namespace, r)...)
			}
		}
	}
	for _, b := range clusterBindings.Items {
		add("", "/"+b.RoleRef.Name, b.Subjects)
	}
	for _, b := range bindings.Items {
		role := b.Namespace + "/" + b.RoleRef.Name
		if b.RoleRef.Kind == "ClusterRole" {
			role = "/" + b.RoleRef.Name
		}
		add(b.Namespace, role, b.Subjects)
	}
	return out
}

func expand(account, namespace string, r rbacv1.PolicyRule) (out []permission) {
	names := r.ResourceNames
	if len(names) == 0 {
		names = []string{""}
	}
	for _, verb := range r.Verbs {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, name := range names {
					out = append(out, permission{account, namespace, verb, group, resource, name})
				}
			}
		}
	}
	return out
}

// unused are permissions whose use the tests do not cause, each with its reason.
var unused = map[string]string{
	"warren-system:warren-agent:  create /events":                                         "written for refused claims only",
	"warren-system:warren-controller:  patch /events":                                     "repeated Events",
	"warren-system:warren-controller:  patch /nodes/status":                               "a condition that cloud controllers set",
	"warren-system:warren-controller: kube-system delete discovery.k8s.io/endpointslices": "when a node loses its DNS address",
	"warren-system:warren-controller: warren-system update /configmaps warren-cluster":    "when the cluster's settings change",
	"warren-system:warren-controller: warren-system update /secrets warren-etcd-client":   "renewal of the certificate",
}

// The roles permit what warren does and nothing else. It runs after all other tests, which make warren do everything that it does:
// the audit log of the API server has no refused request, and a use of each permission.
func TestRBAC_Roles_EqualUse(t *testing.T) {
	if os.Getenv("WARREN_K8S_AUDIT") == "" {
		t.Skip("compares what the other tests have caused: hack/test-k8s.sh runs it after them")
	}
	used, all := requests(t), permissions(t)
	if len(used) < 20 || len(all) < 20 {
		t.Fatalf("%d requests and %d permissions", len(used), len(all))
	}
	for _, r := range used {
		// An API server that has just started refuses requests until it has read the roles.
		if r.ResponseStatus.Code == 403 && !slices.ContainsFunc(all, func(p permission) bool { return p.permits(r) }) {
			t.Errorf("refused: %s %s %+v", r.User.Username, r.Verb, r.ObjectRef)
		}
	}
	for _, p := range all {
		text := strings.TrimSpace(fmt.Sprintf("%s: %s %s %s/%s %s", strings.TrimPrefix(p.Account, "system:serviceaccount:"), p.Namespace,
			p.Verb, p.Group, p.Resource, p.Name))
		isUsed := slices.ContainsFunc(used, p.permits)
		if p.Verb == "list" { // a watch replaces it with API servers that send the list as well (WatchList); with others it is needed
			p.Verb = "watch"
			isUsed = isUsed || slices.ContainsFunc(used, p.permits)
		}
		if reason, listed := unused[text]; !isUsed && !listed {
			t.Errorf("permitted and never used: %s", text)
		} else if isUsed && listed {
			t.Errorf("used, although listed as unused (%s): %s", reason, text)
		}
	}
}
