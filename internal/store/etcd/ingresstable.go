package etcd

import (
	"sort"
	"strings"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/objectstore"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// ingressTable is the decoded content of objects/ for WatchIngress.
type ingressTable struct {
	prefix   string
	objects  *objectstore.IngressTable
	problems map[string]string // key -> reason
}

func (t *ingressTable) drop(key string) {
	delete(t.problems, key)
	t.objects.Drop(strings.TrimPrefix(key, t.prefix))
}

// put decodes one record. Of a record that is invalid the former value is dropped, as in table.
func (t *ingressTable) put(kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	t.drop(key)
	if err := t.objects.Put(strings.TrimPrefix(key, t.prefix), kv); err != nil {
		t.problems[key] = err.Error()
	}
}

func (t *ingressTable) snapshot(revision int64) *model.IngressObjects {
	o := t.objects.Objects()
	o.Revision = revision
	for k, why := range t.problems {
		o.Problems = append(o.Problems, k+": "+why)
	}
	sort.Strings(o.Problems)
	return o
}
