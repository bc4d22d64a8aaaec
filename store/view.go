package store

import (
	"slices"
	"strings"
)

// View is the records of one kind.
type View struct {
	m       *Mirror
	kind    string
	changed chan struct{}
	records []Record // under the Mirror's mutex, as the next
	extra   int      // how many more they are with the Mirror's fresh ones
}

// Follow gives a View of the records of one kind. Call it before Run.
func (m *Mirror) Follow(kind string) *View {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := &View{m: m, kind: kind, changed: make(chan struct{}, 1), records: section(m.records, kind)}
	m.views = append(m.views, v)
	return v
}

// Records gives the records, sorted by key. The slice is never changed, and the same one until a record of the kind is.
func (v *View) Records() []Record {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	v.m.order()
	return v.records
}

// Len gives how many records there are, in constant time.
func (v *View) Len() int {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	return len(v.records) + v.extra
}

// Has reports whether there is a record of that key.
func (v *View) Has(key string) bool {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	_, found := v.m.find(key)
	return found
}

// Changed is told, in its one place, when the records or the Mirror's Standing have changed.
func (v *View) Changed() <-chan struct{} { return v.changed }

// publish replaces the records; m.mu is held.
func (m *Mirror) publish(records []Record) {
	if Equal(m.records, records) {
		return
	}
	m.records = records
	for _, v := range m.views {
		if part := section(records, v.kind); !Equal(part, v.records) {
			v.records = part
			signal(v.changed)
		}
	}
	signal(m.copy)
}

// stand tells the views that Standing has changed; m.mu is held.
func (m *Mirror) stand() {
	for _, v := range m.views {
		signal(v.changed)
	}
}

func byKey(r Record, key string) int { return strings.Compare(r.Key, key) }

// section gives the part of sorted records that is of one kind: they stand together.
func section(records []Record, kind string) []Record {
	from, _ := slices.BinarySearchFunc(records, kind+"/", byKey)
	to, _ := slices.BinarySearchFunc(records, kind+"0", byKey) // 0 comes after the slash
	return records[from:to:to]
}

// Find gives the value of a key in sorted records.
func Find(records []Record, key string) (value []byte, found bool) {
	i, found := slices.BinarySearchFunc(records, key, byKey)
	if !found {
		return nil, false
	}
	return records[i].Value, true
}

// Equal tells whether the records are the same ones.
func Equal(a, b []Record) bool {
	return slices.EqualFunc(a, b, func(x, y Record) bool { return x.Key == y.Key && same(x.Value, y.Value) })
}

// Merge gives sorted records with changes, in any order, the last one of a key being valid; one without a value is a deletion. It changes
// neither.
func Merge(records, changes []Record) []Record {
	changes = slices.Clone(changes)
	slices.SortStableFunc(changes, func(x, y Record) int { return strings.Compare(x.Key, y.Key) })
	merged := make([]Record, 0, len(records)+len(changes))
	for i, c := range changes {
		if i+1 < len(changes) && changes[i+1].Key == c.Key {
			continue
		}
		at, found := slices.BinarySearchFunc(records, c.Key, byKey)
		merged = append(merged, records[:at]...)
		records = records[at:]
		if found {
			records = records[1:]
		}
		if c.Value != nil {
			merged = append(merged, c)
		}
	}
	return append(merged, records...)
}
