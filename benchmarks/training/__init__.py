"""What training costs against the plain script that one would write instead."""
