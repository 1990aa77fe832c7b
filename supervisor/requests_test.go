package supervisor

import (
	"reflect"
	"testing"

	oci "berth/oci/bundle"
)

// A member that a later specification adds for Linux must be added to linuxSpec too.
func TestASpecificationTravelsWholeButForOtherPlatforms(t *testing.T) {
	others := map[string]bool{"Solaris": true, "Windows": true, "VM": true, "ZOS": true, "FreeBSD": true}
	var full oci.Spec
	v := reflect.ValueOf(&full).Elem()
	travels := reflect.TypeFor[linuxSpec]()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		own, ok := travels.FieldByName(f.Name)
		if ok == others[f.Name] {
			t.Errorf("%s travels: %v", f.Name, ok)
		}
		if ok && own.Tag.Get("json") != f.Tag.Get("json") {
			t.Errorf("%s is %q on its way, not %q", f.Name, own.Tag.Get("json"), f.Tag.Get("json"))
		}
		if !ok {
			continue
		}
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case reflect.Map:
			f.Set(reflect.MakeMap(f.Type()))
		}
	}
	in := Config{ID: "id", Spec: &full}
	if out := toWireConfig(in).config(); !reflect.DeepEqual(in, out) {
		t.Errorf("%+v became %+v", in, out)
	}
}
